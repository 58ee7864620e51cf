"""Is the attack as strong as it must be? What cannot be stronger than it, and an eps at which everything must break.

The checklist of Carlini et al. 2019, arXiv 1902.06705, section 4.2. Shapes: `B` images, `S` that stand, `R` right when clean.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from scipy.stats import binom
from torch import Tensor

from tima.attacks.apgd import apgd
from tima.attacks.fgsm import fgsm
from tima.attacks.noise import noise
from tima.attacks.pgd import pgd
from tima.health._chance import ALPHA
from tima.health._make import from_count, not_measured
from tima.health._probe import Probe
from tima.results import Indicator

STEPS = 20  # of gradient attacks on the probe
TRIES = 20  # random points an image
LARGE = 0.5  # l_inf: every pixel can turn grey, so that all images look the same (arXiv 1902.06705, section 4.2)


def one_step(probe: Probe) -> Indicator:
    """Standing images that FGSM breaks: one step must not find what many steps have missed."""
    return _weaker(probe, "one step", fgsm, "one step (FGSM) breaks images that the attack left standing")


def random_noise(probe: Probe) -> Indicator:
    """Standing images that random points break."""
    note = "random noise breaks images that the attack left standing"
    return _weaker(probe, "random noise", noise, note, tries=TRIES)


def smaller_eps(probe: Probe) -> Indicator:
    """Standing images that PGD breaks at half the eps: a smaller ball lies inside the larger one."""
    note = "a short PGD at half the eps breaks images that the attack left standing"
    return _weaker(probe, "smaller eps", pgd, note, eps=probe.eps / 2, steps=STEPS // 2, stop_when_broken=True)


def large_eps(probe: Probe) -> Indicator:
    """Right images that stand when every pixel can turn grey. Under l_2 the ball that holds the grey image: 0.5 sqrt(CHW)."""
    n = int(probe.right_B.sum())
    if n == 0:
        return not_measured("large eps", "no image is right when clean")
    eps = LARGE if probe.norm == "l_inf" else LARGE * prod(probe.image_BCHW.shape[1:]) ** 0.5
    _, broken_R = probe.run(pgd, probe.right_B, eps=eps, steps=STEPS, loss=_loss(probe), stop_when_broken=True)
    note = f"at eps {eps:.3g}, where every image can turn grey, PGD leaves more than chance standing: gradients are masked"
    return from_count("large eps", int((~broken_R).sum()), n, note, rate=1 / probe.classes)


def apgd_minus_pgd(probe: Probe) -> Indicator:
    """Images that only PGD breaks, not APGD with as many steps, beyond a fair coin's share of those that one of them breaks.

    The value is robust accuracy under APGD minus that under PGD, on the images that are right when clean.
    """
    n = int(probe.right_B.sum())
    if n == 0:
        return not_measured("apgd minus pgd", "no image is right when clean")
    _, pgd_R = probe.run(pgd, probe.right_B, steps=STEPS, loss=_loss(probe), stop_when_broken=True)
    _, apgd_R = probe.run(apgd, probe.right_B, steps=STEPS, loss=_loss(probe), stop_when_broken=True)
    only_pgd, only_apgd = int((pgd_R & ~apgd_R).sum()), int((apgd_R & ~pgd_R).sum())
    limit = int(binom.ppf(1 - ALPHA, only_pgd + only_apgd, 0.5)) if only_pgd + only_apgd else 0
    seen = f"only PGD breaks {only_pgd}, only APGD {only_apgd} of {n}"
    fired = only_pgd > limit
    note = f"APGD is weaker than PGD with as many steps: {seen}" if fired else seen
    value, most = (only_pgd - only_apgd) / n, (2 * limit - only_pgd - only_apgd) / n
    return Indicator(name="apgd minus pgd", value=value, limit=most, fired=fired, note=note)


def _weaker(probe: Probe, name: str, attack: Callable[..., Tensor], note: str, **params: Any) -> Indicator:
    n = int(probe.standing_B.sum())
    if n == 0:
        return not_measured(name, "the attack broke every image")
    _, broken_S = probe.run(attack, probe.standing_B, **params)
    return from_count(name, int(broken_S.sum()), n, note)


def _loss(probe: Probe) -> str:
    """As the evaluation's: the margin where one of its attacks climbed a loss free of the logits' scale."""
    return "margin" if probe.scale_free else "ce"
