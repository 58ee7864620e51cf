"""What an attack climbs: one value an image, larger = closer to success, always in fp32.

Shapes: `B` images, `C` classes, `D` embedding width. Every loss takes `(logits_BC, label)`; `label` is `label_B` of class
indices for `ce`, `margin` and `dlr`, probabilities `BxC` for `ce_soft`, reference logits `BxC` for `kl`, and reference
embeddings `BxD` for `embedding_l2`. The losses of `TARGETED_LOSSES` take `(logits_BC, label_B, target_B)`: they lead away
from the true class to another one that the attack has chosen.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.errors import ModelError, RecipeError

LogitsFn = Callable[[Tensor], Tensor]  # what is attacked: pixels in [0, 1] to logits, or to whatever the loss takes
LossFn = Callable[[Tensor, Tensor], Tensor]
TargetedLossFn = Callable[[Tensor, Tensor, Tensor], Tensor]


def ce(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Cross-entropy (Goodfellow et al. 2015, arXiv 1412.6572). Never averaged: a mean shrinks gradients with the batch."""
    _check_classes(logits_BC)
    return F.cross_entropy(logits_BC.float(), label_B, reduction="none")


def _check_classes(logits_BC: Tensor) -> None:
    """Raise `ModelError` for one class, where cross-entropy is 0 and the margin infinite whatever the image."""
    if logits_BC.ndim == 2 and logits_BC.shape[1] < 2:
        raise ModelError("The model has one class: there is no other that an attack could lead to.")


def ce_soft(logits_BC: Tensor, target_BC: Tensor) -> Tensor:
    """Cross-entropy against probabilities."""
    return -(target_BC.float() * F.log_softmax(logits_BC.float(), dim=1)).sum(1)


def kl(logits_BC: Tensor, reference_BC: Tensor) -> Tensor:
    """`KL(softmax(reference) || softmax(logits))`: the inner loss of TRADES (Zhang et al. 2019, arXiv 1901.08573)."""
    log_p_BC = F.log_softmax(reference_BC.float(), dim=1)
    return F.kl_div(F.log_softmax(logits_BC.float(), dim=1), log_p_BC, reduction="none", log_target=True).sum(1)


def margin(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Best wrong logit minus the label's (Carlini & Wagner 2017, arXiv 1608.04644): positive = misclassified."""
    _check_classes(logits_BC)
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


def embedding_l2(embedding_BD: Tensor, reference_BD: Tensor) -> Tensor:
    """Squared Euclidean distance between embeddings as they are, not normalised (FARE, Schlarmann et al. 2024, arXiv
    2402.12336, eq. 3): no class is asked. Its gradient is 0 at the reference, so an attack must start beside it."""
    return (embedding_BD.float() - reference_BD.float()).square().sum(1)


def ce_targeted(logits_BC: Tensor, label_B: Tensor, target_B: Tensor) -> Tensor:
    """Log-probability of the target; the true class counts only as one of the others."""
    return -ce(logits_BC, target_B)


def margin_targeted(logits_BC: Tensor, label_B: Tensor, target_B: Tensor) -> Tensor:
    """The target's logit minus the true class's: above 0 the image is misclassified."""
    both_B2 = logits_BC.float().gather(1, torch.stack([target_B, label_B], 1))
    return both_B2[:, 0] - both_B2[:, 1]


def dlr_targeted(logits_BC: Tensor, label_B: Tensor, target_B: Tensor) -> Tensor:
    """Targeted difference of logits ratio (Croce & Hein 2020, arXiv 2003.01690, eq. 7), free of the logits' scale.

    Below 4 classes, where the ratio needs a fourth logit, this is the plain targeted margin.
    """
    if logits_BC.shape[1] < 4:
        return margin_targeted(logits_BC, label_B, target_B)
    top_B4 = logits_BC.float().topk(4, dim=1).values
    scale_B = top_B4[:, 0] - (top_B4[:, 2] + top_B4[:, 3]) / 2
    return margin_targeted(logits_BC, label_B, target_B) / (scale_B + 1e-12)


LOSSES: dict[str, LossFn] = {
    "ce": ce,
    "ce_soft": ce_soft,
    "cw": margin,
    "dlr": dlr,
    "embedding_l2": embedding_l2,
    "kl": kl,
    "margin": margin,
}
TARGETED_LOSSES: dict[str, TargetedLossFn] = {"ce_targeted": ce_targeted, "dlr_targeted": dlr_targeted}


def find_loss(loss: str | LossFn, *, targeted: bool = False) -> LossFn:
    """A loss by name, or the function itself.

    A named loss is negated for targeted attacks (`label` is then the class to reach; `ce` and `margin` get there, the ratio of
    `dlr` is made for leaving a class). A function is taken as it is: it says itself what is closer to success.

    Raises:
        RecipeError: no loss of that name.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise RecipeError(f"There is no attack loss '{loss}'. Known are: {', '.join(LOSSES)}.")
    named = LOSSES[loss]
    return (lambda output, label: -named(output, label)) if targeted else named


def check_can_break(loss: str | LossFn) -> None:
    """Raise `RecipeError` for a loss whose outputs are no classes, where an attack is to stop at misclassification."""
    if loss in ("embedding_l2", embedding_l2):
        raise RecipeError(
            "The loss embedding_l2 compares embeddings, which are no classes: nothing can be misclassified there."
        )
