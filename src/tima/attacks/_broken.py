"""When an image counts as broken while the search still runs.

Shapes: `A` images in the batch, `C` channels or classes, `H, W` pixels.
"""

import math

import torch
from torch import Tensor

from tima.attacks.losses import LogitsFn


def misclassified(logits_fn: LogitsFn, x_ACHW: Tensor, output_AC: Tensor, label_A: Tensor, targeted: bool) -> Tensor:
    """Which images the model gets wrong. Where the answers came in low precision, only what fp32 confirms counts.

    Low precision means that autocast is on, or that `logits_fn` has an attribute `exact`: the same model as a callable in
    fp32. Either way the images that look broken, and only those, are asked again. Where `logits_fn` also has a `tolerance`,
    how far its logits may be from the exact ones, those that are wrong by more than rounding can change need no second look.

    Args:
        logits_fn: the model under attack.
        x_ACHW: the images.
        output_AC: their logits.
        label_A: true classes, or scores `AxC` whose largest is the class.
        targeted: `label_A` is the class to reach, and broken means that it is reached.

    Returns:
        `broken_A`, bool.
    """
    broken_A = _wrong(output_AC, label_A, targeted)
    exact = getattr(logits_fn, "exact", None)
    device = x_ACHW.device.type
    if (exact is not None or torch.is_autocast_enabled(device)) and bool(broken_A.any()):
        known = exact is not None and output_AC.shape[1] > 1
        tolerance = getattr(logits_fn, "tolerance", math.inf) if known else math.inf
        close_A = broken_A if tolerance == math.inf else broken_A & (_lead(output_AC) <= 2 * tolerance)
        if not bool(close_A.any()):
            return broken_A
        with torch.no_grad(), torch.autocast(device, enabled=False):
            output = (exact or logits_fn)(x_ACHW.detach()[close_A])
            broken_A = broken_A.masked_scatter(close_A, _wrong(output, label_A[close_A], targeted))
    return broken_A


def _lead(output_AC: Tensor) -> Tensor:
    """The largest logit minus the second: as long as no logit moves by half of it, the answer stays the same."""
    top_A2 = output_AC.detach().topk(2, dim=1).values
    return top_A2[:, 0] - top_A2[:, 1]


def _wrong(output_AC: Tensor, label_A: Tensor, targeted: bool) -> Tensor:
    class_A = label_A.argmax(1) if label_A.ndim > 1 else label_A
    return (output_AC.detach().argmax(1) == class_A) == targeted
