"""Logits of many images without gradients, a batch at a time.

Shapes: `B` images, `C` channels or classes, `H, W` pixels.
"""

import torch
from torch import Tensor

from tima.attacks.losses import LogitsFn


def forward(logits_fn: LogitsFn, image_BCHW: Tensor, batch_size: int | None = None) -> Tensor:
    """`logits_fn` of all images, at most `batch_size` of them at once; all by default."""
    with torch.no_grad():
        return torch.cat([logits_fn(part) for part in image_BCHW.split(batch_size or max(len(image_BCHW), 1))])
