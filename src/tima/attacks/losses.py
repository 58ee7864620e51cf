"""What an attack climbs: one value an image, larger = closer to success, always in fp32.

Shapes: `B` images, `C` classes. Every loss takes `(logits_BC, label)`; `label` is `label_B` of class indices for `ce`,
`margin` and `dlr`, probabilities `BxC` for `ce_soft`, and reference logits `BxC` for `kl`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.errors import RecipeError

LossFn = Callable[[Tensor, Tensor], Tensor]


def ce(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Cross-entropy (Goodfellow et al. 2015, arXiv 1412.6572). Never averaged: a mean shrinks gradients with the batch."""
    return F.cross_entropy(logits_BC.float(), label_B, reduction="none")


def ce_soft(logits_BC: Tensor, target_BC: Tensor) -> Tensor:
    """Cross-entropy against probabilities."""
    return -(target_BC.float() * F.log_softmax(logits_BC.float(), dim=1)).sum(1)


def kl(logits_BC: Tensor, reference_BC: Tensor) -> Tensor:
    """`KL(softmax(reference) || softmax(logits))`: the inner loss of TRADES (Zhang et al. 2019, arXiv 1901.08573)."""
    log_p_BC = F.log_softmax(reference_BC.float(), dim=1)
    return F.kl_div(F.log_softmax(logits_BC.float(), dim=1), log_p_BC, reduction="none", log_target=True).sum(1)


def margin(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Best wrong logit minus the label's (Carlini & Wagner 2017, arXiv 1608.04644): positive = misclassified."""
    logits_BC = logits_BC.float()
    own_B1 = logits_BC.gather(1, label_B[:, None])
    other_BC = logits_BC.scatter(1, label_B[:, None], -torch.inf)
    return other_BC.amax(1) - own_B1[:, 0]


def dlr(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, arXiv 2003.01690, eq. 6): the margin, free of the logits' scale.

    Below 4 classes this is the plain margin: with 2 there is no third logit, and with 3 the ratio is the constant 1
    wherever the label comes last, so that nothing is left to climb.
    """
    if logits_BC.shape[1] < 4:
        return margin(logits_BC, label_B)
    top_B3 = logits_BC.float().topk(3, dim=1).values
    return margin(logits_BC, label_B) / (top_B3[:, 0] - top_B3[:, 2] + 1e-12)


LOSSES: dict[str, LossFn] = {"ce": ce, "ce_soft": ce_soft, "dlr": dlr, "kl": kl, "margin": margin}


def find_loss(loss: str | LossFn, *, targeted: bool = False) -> LossFn:
    """A loss by name, or the function itself.

    A named loss is negated for targeted attacks (`label` is then the class to reach). A function is taken as it is:
    it says itself what is closer to success.

    Raises:
        RecipeError: no loss of that name.
    """
    if callable(loss):
        return loss
    if loss not in LOSSES:
        raise RecipeError(f"There is no attack loss '{loss}'. Known are: {', '.join(LOSSES)}.")
    named = LOSSES[loss]
    return (lambda output, label: -named(output, label)) if targeted else named
