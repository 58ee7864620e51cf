"""The pixel grid that eps applies to, when it is the pictures' own and not the model's.

Enlarging a 32 px picture to 224 px couples neighbouring pixels, so an attack before it is weaker than one after it. Papers do
either; a protocol says which (`pixel_grid`). Shapes: `B` images, `C` channels, `H, W` pixels.
"""

import io
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tima.data.image_set import ImageSet


def shared_side(images: ImageSet) -> int | None:
    """The side in pixels of the pictures, when all that can be read are square and of one size; else None.

    Looks at the files' headers only, and at no more of them than it takes to find two that differ.
    """
    side: int | None = None
    for index in range(len(images)):
        try:
            source: bytes | Path = images.read(index)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
                width, height = picture.size
        except Exception:  # a damaged file: found and reported by the clean pass
            continue
        if width != height or side not in (None, width):
            return None
        side = width
    return side


class Resized:
    """`logits_fn` behind a bicubic resize: what is attacked when eps applies to the pictures' own pixels.

    The same filter as CLIP's preprocessing (PIL's: antialiased, a = -0.5), without its rounding to 8 bits, so that gradients
    pass. Overshoot is clipped as in a picture file: the model's contract is pixels in [0, 1].
    """

    def __init__(self, logits_fn: Any, side: int) -> None:
        self.logits_fn, self.side = logits_fn, side

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        return self.logits_fn(self.resize(image_BCHW))  # type: ignore[no-any-return]

    @property
    def exact(self) -> "Resized | None":
        """The fp32 model behind the same resize, where `logits_fn` computes in less."""
        exact = getattr(self.logits_fn, "exact", None)
        return None if exact is None else Resized(exact, self.side)

    def resize(self, image_BCHW: Tensor) -> Tensor:
        image_BCHW = image_BCHW.float()
        for size in ((image_BCHW.shape[2], self.side), (self.side, self.side)):  # across, then down, clipped in between: PIL
            if image_BCHW.shape[2:] != size:
                image_BCHW = F.interpolate(image_BCHW, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        return image_BCHW
