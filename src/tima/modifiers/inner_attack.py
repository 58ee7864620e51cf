"""The attack inside training, by the recipe's `attack.kind`: PGD, or one cheap step.

Of the cheap ones N-FGSM is the one to take: it costs what FGSM costs, and by its paper holds where FGSM from a random start
falls into catastrophic overfitting (strong against one step, weak against several), as GradAlign does at several times the
price (de Jorge et al., NeurIPS 2022, arXiv 2202.01181). Formula numbers are those of docs/method.md.

Shapes: `B` images, `C` channels, `H, W` pixels.
"""

import torch
from torch import Tensor

from tima.attacks import LogitsFn, LossFn, fgsm, pgd, projections
from tima.attacks.losses import find_loss
from tima.attacks.projections import Generators
from tima.config import AttackSettings
from tima.errors import TrainingError


def inner_attack(
    settings: AttackSettings,
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    target_B: Tensor,
    eps: float,
    step_size: float,
    loss: str | LossFn,
    generator: Generators,
) -> Tensor:
    """Adversarial images in [0, 1]; within eps but for `n-fgsm`, whose noise reaches further.

    Args:
        settings: kind, steps, restarts.
        logits_fn: what the method's adversary sees.
        target_B: what it is driven away from, a row an image.
        eps: pixel units of [0, 1].
        step_size: of PGD; the single steps have their own unless the settings name one.
    """
    if settings.kind == "fgsm":
        size = settings.step_size or 1.25 * eps
        return fgsm(logits_fn, image_BCHW, target_B, eps, step_size=size, loss=loss, random_start=True, generator=generator)
    if settings.kind == "n-fgsm":
        size = min(settings.step_size or eps, eps)  # nothing projects it, and while eps warms up a fixed step would outgrow it
        return n_fgsm(logits_fn, image_BCHW, target_B, settings.noise * eps, step_size=size, loss=loss, generator=generator)
    return pgd(
        logits_fn,
        image_BCHW,
        target_B,
        eps,
        steps=settings.steps,
        step_size=step_size,
        restarts=settings.restarts,
        loss=loss,
        keep_best=settings.keep_best,
        generator=generator,
    )


def n_fgsm(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    target_B: Tensor,
    noise: float,
    *,
    step_size: float,
    loss: str | LossFn,
    generator: Generators,
) -> Tensor:
    """One signed step from a noisy image (de Jorge et al. 2022, arXiv 2202.01181). Not back into the ball: for training only.

    Raises:
        TrainingError: a gradient that is NaN or infinite.
    """
    drawn_BCHW = projections.noise(image_BCHW, generator, "uniform")
    # (28) N-FGSM: x' = [x + eta]_[0,1], eta ~ U(-k eps, k eps);  x_adv = [x' + eps sign grad l(x')]_[0,1]
    start_BCHW = (image_BCHW + noise * (2 * drawn_BCHW - 1)).clamp(0, 1).requires_grad_(True)
    climbed = find_loss(loss)(logits_fn(start_BCHW), target_B).sum()
    (gradient_BCHW,) = torch.autograd.grad(climbed, start_BCHW)
    if not bool(gradient_BCHW.sum().isfinite()):  # the sign of NaN is NaN, and no comparison would find it later
        raise TrainingError("The inner attack met a NaN or infinite gradient. A smaller lr or precision=fp32 usually helps.")
    return (start_BCHW.detach() + step_size * gradient_BCHW.sign()).clamp(0, 1)
