"""Where the images of an evaluation come from: an `ImageSet`, or tensors that somebody has in memory already.

Shapes: `N` images in all, `B` images of a batch, `C` channels, `H, W` pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from tima.data.image_set import BadImage, ImageSet, check_class_names
from tima.errors import DataError


@dataclass(frozen=True)
class Loaded:
    """Pixels in [0, 1], classes, and which image of the set each is; `bad` are those that cannot be read."""

    image_BCHW: Tensor
    label_B: Tensor
    index_B: Tensor
    bad: tuple[BadImage, ...] = ()


class Source(Protocol):
    """What an evaluation needs of a set of images."""

    name: str
    label_N: Tensor
    class_names: list[str]
    templates: tuple[str, ...]
    quarantine: list[BadImage]
    shape: tuple[int, int, int]

    def load(self, index_B: Tensor) -> Loaded:
        """Some images by their index in the set."""


class SetSource:
    """An `ImageSet`, decoded at the size it has."""

    def __init__(self, images: ImageSet) -> None:
        self.images, self.name, self.label_N = images, images.name, images.label_B
        self.class_names, self.templates = list(images.class_names), tuple(images.templates)
        self.quarantine = images.quarantine
        self.shape = (3, images.image_size, images.image_size)

    def load(self, index_B: Tensor) -> Loaded:
        batch = self.images.collate(self.images.__getitems__(index_B.tolist()))
        return Loaded(batch.image_BCHW.float() / 255, batch.label_B, batch.index_B, batch.bad)


@dataclass
class TensorSource:
    """Images in memory, `N x C x H x W`, float in [0, 1].

    Raises:
        DataError: integer images, values outside [0, 1], or labels that do not fit images or class names.
    """

    image_NCHW: Tensor
    label_N: Tensor
    name: str
    class_names: list[str]
    templates: tuple[str, ...] = ()
    quarantine: list[BadImage] = field(default_factory=list)

    def __post_init__(self) -> None:
        image, label = self.image_NCHW, self.label_N
        if not image.is_floating_point():
            raise DataError(f"'{self.name}' holds {image.dtype} images; give float pixels in [0, 1]. Divide uint8 by 255.")
        if image.ndim != 4 or len(image) == 0:
            raise DataError(f"'{self.name}' must hold images N x C x H x W, not {' x '.join(map(str, image.shape))}.")
        low, high = (float(value) for value in torch.aminmax(image))
        if not (low >= 0 and high <= 1):  # NaN fails this too
            raise DataError(
                f"'{self.name}' reaches from {low:.4g} to {high:.4g}; pixels must be in [0, 1]. Divide 0-255 images by 255, "
                "and leave normalisation to the model."
            )
        if label.ndim != 1 or len(label) != len(image) or label.is_floating_point() or label.dtype == torch.bool:
            raise DataError(f"'{self.name}' needs one whole number a label: {len(image)} images, labels {tuple(label.shape)}.")
        self.label_N = label.detach().cpu().long()
        self.shape = (int(image.shape[1]), int(image.shape[2]), int(image.shape[3]))
        if self.class_names:
            check_class_names(self.class_names, self.name)
            check_labels(self.label_N, len(self.class_names), self.name)

    def load(self, index_B: Tensor) -> Loaded:
        return Loaded(self.image_NCHW[index_B].detach().float(), self.label_N[index_B], index_B)


def check_labels(label_N: Tensor, classes: int, name: str) -> None:
    """Raise `DataError` for labels that `classes` classes do not have."""
    low, high = int(label_N.min()), int(label_N.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"The labels of '{name}' reach from {low} to {high}, but there are {classes} classes (0 to {classes - 1})."
        )


def as_source(data: "ImageSet | tuple[Tensor, Tensor]", name: str, class_names: Sequence[str] | None) -> Source:
    """The images as a source; other class names replace the set's."""
    if isinstance(data, ImageSet):
        source = SetSource(data)
        if class_names is not None:
            check_class_names(class_names, name)
            check_labels(source.label_N, len(class_names), source.name)
            source.class_names = list(class_names)
        return source
    image_NCHW, label_N = data
    return TensorSource(image_NCHW, label_N, name, list(class_names or []))
