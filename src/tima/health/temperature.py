"""Is the logits' scale still there? A second normalisation after the multiplication by it cancels it.

Shapes: `B` images, `C` classes.
"""

from tima.health._chance import beyond_chance
from tima.health._make import from_value
from tima.health._probe import Probe
from tima.results import Indicator

COSINE_RANGE = 2.0  # cosines lie in [-1, 1]
CLAIMED = 5.0  # a claimed scale below this can make logits that look like cosines; CLIP's is 100
NEARLY_UNIFORM = 0.1  # our choice: confidence has gone a tenth of the way from chance to the accuracy. Calibrated is 1


def temperature(probe: Probe) -> Indicator:
    """Fires for logits within [-1, 1] of a model that claims a scale, or for nearly uniform answers that are right.

    Confidence is judged only where the logits' range also fits cosines on every image, so that a model which is merely
    unsure is not blamed. The value is the largest range.
    """
    logits_BC = probe.clean_BC
    spread = float((logits_BC.amax(1) - logits_BC.amin(1)).max())
    chance, n, right = 1 / logits_BC.shape[1], len(logits_BC), int(probe.right_B.sum())
    confidence = float(logits_BC.softmax(1).amax(1).mean())
    claims = probe.logit_scale is not None and probe.logit_scale >= CLAIMED
    bare = claims and float(logits_BC.abs().max()) <= COSINE_RANGE / 2 + 1e-3
    unsure = confidence < chance + NEARLY_UNIFORM * (right / n - chance)
    unsure = unsure and beyond_chance(right, n, chance) and spread <= COSINE_RANGE
    seen = f"mean confidence {confidence:.3g} at accuracy {right / n:.3g}"
    why = f"the logits are bare cosines though the scale is {probe.logit_scale:g}" if bare else "answers are nearly uniform"
    note = f"{why}: the temperature is cancelled, perhaps by a second normalisation ({seen})"
    found = from_value("temperature", spread, COSINE_RANGE, note, seen)  # `fired` is not about the value alone
    return found.model_copy(update={"fired": bare or unsure, "note": note if bare or unsure else seen})
