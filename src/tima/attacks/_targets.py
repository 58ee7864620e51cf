"""Which classes a targeted attack tries: those that the model holds most likely besides the true one.

Shapes: `B` images, `C` channels or classes, `H, W` pixels, `K` targets an image.
"""

import torch
from torch import Tensor

from tima.attacks._check import check_classes
from tima.attacks._forward import forward
from tima.attacks.losses import LogitsFn
from tima.errors import RecipeError


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


def runner_up_classes_of(
    logits_fn: LogitsFn, image_BCHW: Tensor, label_B: Tensor, k: int, batch_size: int | None = None
) -> Tensor:
    """`runner_up_classes` of the clean images: one forward each.

    Raises:
        RecipeError: the model has one class, so there is none to go to.
    """
    if len(image_BCHW) == 0:
        return label_B.new_empty(0, k)
    logits_BC, label_B = forward(logits_fn, image_BCHW, batch_size), label_B.to(image_BCHW.device)
    check_classes(logits_BC, label_B)
    class_BK = runner_up_classes(logits_BC, label_B, k)
    if class_BK.shape[1] == 0:
        raise RecipeError("The model has one class: there is no other that an attack could lead to.")
    return class_BK


def target_of(class_AK: Tensor, run_A: Tensor, extra: int, restarts: int) -> Tensor:
    """The class that some runs lead to: `extra` runs and the first `restarts` to the first one, and so on."""
    number_A = ((run_A - extra) // restarts).clamp(0, class_AK.shape[1] - 1)
    return class_AK.gather(1, number_A.to(class_AK.device)[:, None])[:, 0]
