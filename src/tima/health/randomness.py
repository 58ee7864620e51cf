"""Does the model draw random numbers? Then one gradient is one opinion (arXiv 1802.00420, "stochastic gradients")."""

from tima.health._make import from_value, not_measured
from tima.health._probe import Probe
from tima.results import Indicator

ROUNDING = 1e-4  # of the largest logit: fp32 sums in another order differ by about 1e-6, a thousand times more is no rounding


def randomness(probe: Probe) -> Indicator:
    """Largest difference between the logits of two calls on the same images, as a share of the largest logit."""
    first_BC, second_BC = probe.clean_BC, probe.logits(probe.image_BCHW)
    if not bool((first_BC.isfinite() & second_BC.isfinite()).all()):
        return not_measured("randomness", "the logits are not finite")
    value = float((first_BC - second_BC).abs().max() / first_BC.abs().max().clamp(min=1e-12))
    note = f"two calls on the same images differ by {value:.2g} of the largest logit: the model is random; use version rand"
    return from_value("randomness", value, ROUNDING, note)
