"""Are the pixel gradients alive? Zero and non-finite gradients, and a softmax that flattens the loss.

Masked gradients make attacks weak, not models robust (Athalye et al. 2018, arXiv 1802.00420, "shattered gradients").
Shapes: `B` images, `C` channels, `H, W` pixels.
"""

from torch import Tensor

from tima.health._make import from_count, from_value
from tima.health._probe import Probe
from tima.results import Indicator

# A gradient shorter than this is as good as none. Under l_2 the step divides by its length, never by less than 1e-20
# (`projections.py`). Under l_inf only signs count: 1e-30 leaves 8 digits to fp32's smallest normal number for the products
# of a backward pass.
NEARLY_ZERO = {"l_inf": 1e-30, "l_2": 1e-20}
ZERO_STEPS = 0.1  # our choice: an attack that stood still in a tenth of its steps had less than its budget


def zero_gradients(probe: Probe) -> Indicator:
    """Images where neither cross-entropy nor margin has a pixel gradient, at the clean image."""
    dead_B = _dead(probe, probe.clean_gradients[0]) & _dead(probe, probe.clean_gradients[1])
    note = "neither cross-entropy nor margin has a gradient at the pixels: something rounds or cuts it off; attack with bpda"
    return from_count("zero gradients", int(dead_B.sum()), len(dead_B), note)


def zero_steps(probe: Probe) -> Indicator:
    """Share of the attack's own gradients that were 0 in every pixel; on the probe where the attack did not count.

    The note says how many single pixel values were 0: they rise first when gradients underflow.
    """
    stats = probe.gradients
    if stats is None or stats.images == 0:
        zero_BP = probe.clean_gradients[0].flatten(1) == 0
        value, values, source = float(zero_BP.all(1).float().mean()), float(zero_BP.float().mean()), "on the clean probe"
    else:
        value, values = stats.zero_image_share, stats.zero_value_share
        source = f"of {stats.images} gradients of the attack"
    source += f"; of all pixel values {values:.2%} were 0"
    fired = f"{value:.0%} of the gradients were 0 in every pixel ({source}): the attack stood still there"
    return from_value("zero steps", value, 1.0 if probe.scale_free else ZERO_STEPS, fired, source)


def non_finite_gradients(probe: Probe) -> Indicator:
    """Share of NaN or infinite numbers in pixel gradients, of the attack and of the probe."""
    shares = [float((~g.isfinite()).float().mean()) for g in probe.clean_gradients]
    if probe.gradients is not None:
        shares.append(probe.gradients.non_finite_share)
    note = "pixel gradients are NaN or infinite: their sign is no direction; run in fp32 and look for NaN weights"
    return from_value("non-finite gradients", max(shares), 0.0, note)


def saturation(probe: Probe) -> Indicator:
    """Images whose cross-entropy gradient underflows while that of the margin is alive (arXiv 1608.04644, section V).

    Where an attack of the evaluation climbs a loss that is free of the logits' scale, this is no reason for suspicion.
    """
    flat_B = _dead(probe, probe.clean_gradients[0]) & ~_dead(probe, probe.clean_gradients[1])
    note = "the softmax is saturated: cross-entropy has no gradient where the margin has one; attack with dlr or margin"
    found = from_count("saturation", int(flat_B.sum()), len(flat_B), note)
    if found.fired and probe.scale_free:
        note = f"harmless here, an attack climbs a scale-free loss; {found.note}"
        return found.model_copy(update={"fired": False, "note": note})
    return found


def _dead(probe: Probe, gradient_BCHW: Tensor) -> Tensor:
    """NaN is not dead: it has an indicator of its own."""
    length_B = gradient_BCHW.double().flatten(1).norm(dim=1)
    dead_B: Tensor = length_B < NEARLY_ZERO[probe.norm]
    return dead_B
