"""When an image counts as broken while the search still runs.

Shapes: `A` images in the batch, `C` channels or classes, `H, W` pixels.
"""

import torch
from torch import Tensor

from tima.attacks.losses import LogitsFn


def misclassified(logits_fn: LogitsFn, x_ACHW: Tensor, output_AC: Tensor, label_A: Tensor, targeted: bool) -> Tensor:
    """Which images the model gets wrong. Where the answers came in low precision, only what fp32 confirms counts.

    Low precision means that autocast is on, or that `logits_fn` has an attribute `exact`: the same model as a callable in
    fp32. Either way the images that look broken, and only those, are asked again.

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
        with torch.no_grad(), torch.autocast(device, enabled=False):
            output = (exact or logits_fn)(x_ACHW.detach()[broken_A])
            broken_A = broken_A.masked_scatter(broken_A, _wrong(output, label_A[broken_A], targeted))
    return broken_A


def _wrong(output_AC: Tensor, label_A: Tensor, targeted: bool) -> Tensor:
    class_A = label_A.argmax(1) if label_A.ndim > 1 else label_A
    return (output_AC.detach().argmax(1) == class_A) == targeted
