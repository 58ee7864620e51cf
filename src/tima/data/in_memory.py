"""`as_image_set`: what somebody has at hand in Python (pictures with class names, a `datasets.Dataset`) as an `ImageSet`.

Nothing is copied: pictures are read when they are asked for. Those that are in memory are handed on as PNG, without loss.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tima.data.decoding import to_rgb
from tima.data.hub import HubCells
from tima.data.image_set import ImageSet
from tima.errors import DataError

PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")  # what PIL can write as PNG
LABELS = ("label", "labels", "fine_label", "class", "target")
KINDS = "an ImageSet, a datasets.Dataset, a list of (image, class name), or the path or name of a data set"


def as_image_set(data: Any, image_size: int, name: str = "given") -> ImageSet:
    """Labelled pictures as an `ImageSet`.

    Args:
        data: an `ImageSet`; a `datasets.Dataset` with an image and a label column; a list of (image, class name), where an
            image is a PIL picture, a path, encoded bytes or a uint8 array H x W x 3.
        image_size: side of the grid in pixels.
        name: what messages call it.

    Raises:
        DataError: another kind of data, or an item that is none of these; the message says which.
    """
    if isinstance(data, ImageSet):
        return data.at_size(image_size)
    if type(data).__module__.startswith("datasets."):
        return _from_dataset(data, image_size, name)
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict)):
        return _from_pairs(list(data), image_size, name)
    raise DataError(f"{type(data).__name__} cannot be used as training data. Give {KINDS}.")


def _from_pairs(pairs: list[Any], image_size: int, name: str) -> ImageSet:
    images, names = [], []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[1], str):
            found = f"a {type(pair).__name__}"
            if isinstance(pair, (tuple, list)) and len(pair) == 2:
                found = f"the label {pair[1]!r}, a {type(pair[1]).__name__}"
            raise DataError(f"Item {index} of the data must be (image, class name), but is {found}.")
        images.append(_checked(pair[0], f"Item {index} of the data"))
        names.append(pair[1].strip())
    if not images:
        raise DataError("The data is empty. Give pairs of (image, class name).")
    class_names = sorted(set(names))
    label_B = torch.tensor([class_names.index(n) for n in names])
    return ImageSet(name, class_names, label_B, Encoded(images), Place(name), image_size)


def _from_dataset(data: Any, image_size: int, name: str) -> ImageSet:
    import datasets

    if isinstance(data, datasets.DatasetDict):
        if "train" not in data:
            raise DataError(
                f"The DatasetDict has the splits {', '.join(data)}, but no 'train'. Give one of them: data['NAME']."
            )
        data = data["train"]
    if not isinstance(data, datasets.Dataset):
        raise DataError(
            f"A {type(data).__name__} has no length and no order, which training needs. Load it without streaming, or give "
            "pictures on disk."
        )
    image = next((column for column, kind in data.features.items() if isinstance(kind, datasets.Image)), None)
    label = next((column for column, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)), None)
    label = label or next((column for column in LABELS if column in data.features), None)
    if image is None or label is None:
        columns = ", ".join(f"{column} ({kind})" for column, kind in data.features.items())
        raise DataError(f"The data set needs a column of pictures and one of labels; it has: {columns}.")
    kind, values = data.features[label], list(data[label])
    if None in values:
        raise DataError(f"Row {values.index(None)} of the data set has no label in '{label}'.")
    if isinstance(kind, datasets.ClassLabel):
        class_names, labels = [str(n).replace("_", " ") for n in kind.names], list(values)
    elif all(isinstance(value, str) for value in values):
        class_names = sorted(set(values))
        labels = [class_names.index(value) for value in values]
    else:
        raise DataError(
            f"The column '{label}' holds numbers without names. Cast it: data.cast_column('{label}', ClassLabel(...))."
        )
    stored = data.cast_column(image, datasets.Image(decode=False))
    return ImageSet(name, class_names, torch.tensor(labels), HubCells(stored, image), Place(name), image_size)


# classes and not lambdas, so that loaders can send a set to their worker processes


@dataclass(frozen=True)
class Encoded:
    """Pictures of any accepted kind, as bytes or paths."""

    images: Sequence[Any]

    def __call__(self, index: int) -> bytes | Path:
        image = self.images[index]
        if isinstance(image, (bytes, Path)):
            return image
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        if picture.mode not in PNG_MODES:  # CMYK and its kin: from a file they are decoded by this too
            picture = to_rgb(picture)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


@dataclass(frozen=True)
class Place:
    """What messages call a picture."""

    name: str

    def __call__(self, index: int) -> str:
        return f"{self.name} #{index}"


def _checked(image: Any, where: str) -> Any:
    if isinstance(image, (Image.Image, bytes, Path)):
        return image
    if isinstance(image, str):
        return Path(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    shape = f" of {image.dtype} {tuple(image.shape)}" if hasattr(image, "shape") and hasattr(image, "dtype") else ""
    raise DataError(
        f"{where}: a picture must be a PIL picture, a path, encoded bytes or a uint8 array H x W x 3, not a "
        f"{type(image).__name__}{shape}."
    )
