"""A training step's images, labels and, where the method asks for them, captions.

Shapes: `B` images, `C` channels, `H, W` pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tima.class_sample import ClassSample
from tima.data import ImageSet


@dataclass(frozen=True)
class TrainBatch:
    """One process's share of a step; images are uint8."""

    image_BCHW: Tensor
    label_B: Tensor
    captions: Sequence[str] | None = None
    classes: ClassSample | None = None  # of the whole step: the same in every process and every part

    def parts(self, count: int) -> list["TrainBatch"]:
        """`count` pieces whose sizes differ by one at most, in order; fewer only where there are fewer images."""
        found = []
        # not `chunk`, which may give fewer: processes whose shares differ by an image would then wait for each other for ever
        for row_B in torch.arange(len(self.label_B)).tensor_split(min(count, max(1, len(self.label_B)))):
            texts = None if self.captions is None else [self.captions[i] for i in row_B.tolist()]
            found.append(TrainBatch(self.image_BCHW[row_B], self.label_B[row_B], texts, self.classes))
        return found


def captions_of(images: ImageSet, index_B: Tensor, templates: Sequence[str], seed: int) -> list[str]:
    """A text for each image: the data set's caption or, where that is missing or empty, its class name in a prompt.

    Args:
        index_B: which images of the set.
        templates: prompts with `{c}`; `seed` picks one for each image.
    """
    pick_B = torch.randint(len(templates), (len(index_B),), generator=torch.Generator().manual_seed(seed)).tolist()
    found = []
    for index, pick in zip(index_B.tolist(), pick_B, strict=True):
        own = images.caption_B[index] if images.caption_B else None
        name = images.class_names[int(images.label_B[index])]
        found.append(own.strip() if own and own.strip() else templates[pick].replace("{c}", name))
    return found
