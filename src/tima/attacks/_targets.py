"""Which classes a targeted attack tries: those that the model holds most likely besides the true one.

Shapes: `B` images, `C` classes, `K` targets an image.
"""

import torch
from torch import Tensor


def runner_up_classes(logits_BC: Tensor, label_B: Tensor, k: int) -> Tensor:
    """The `k` most likely wrong classes of each image, most likely first (Croce & Hein 2020, arXiv 2003.01690, section 4).

    Args:
        logits_BC: of the clean images.
        label_B: true classes.
        k: how many; at most `C - 1` exist, so two classes give one target.

    Returns:
        `class_BK`. Between equal logits the lower class number comes first, on every device and at every batch size.
    """
    wrong_BC = logits_BC.detach().float().scatter(1, label_B[:, None], -torch.inf)
    order_BC = wrong_BC.argsort(dim=1, descending=True, stable=True)
    return order_BC[:, : min(k, logits_BC.shape[1] - 1)]
