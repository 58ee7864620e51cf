"""Fast gradient sign method, Goodfellow et al. 2015, arXiv 1412.6572: one step of full length.

Shapes: `B` images, `C` channels, `H, W` pixels. With `random_start` and `step_size = 1.25 * eps` it is RS-FGSM
(Wong et al. 2020, arXiv 2001.03994).
"""

from torch import Tensor

from tima.attacks.losses import LogitsFn, LossFn
from tima.attacks.pgd import pgd
from tima.attacks.projections import Generators


def fgsm(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    step_size: float | None = None,
    loss: str | LossFn = "ce",
    targeted: bool = False,
    random_start: bool = False,
    start_BCHW: Tensor | None = None,
    keep_best: bool = False,
    stop_when_broken: bool = False,
    generator: Generators = None,
    batch_size: int | None = None,
) -> Tensor:
    """One step along the sign of the gradient (`l_inf`) or along the gradient (`l_2`).

    Args and errors are those of `pgd`; `step_size` is eps unless given (in [0, 1] pixel units).

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1].
    """
    return pgd(
        logits_fn,
        image_BCHW,
        label_B,
        eps,
        norm=norm,
        steps=1,
        step_size=step_size,
        loss=loss,
        targeted=targeted,
        random_start=random_start,
        start_BCHW=start_BCHW,
        keep_best=keep_best,
        stop_when_broken=stop_when_broken,
        generator=generator,
        batch_size=batch_size,
    )
