"""Does an image's answer or gradient depend on its neighbours or on the attack's precision?

Shapes: `B` images, `C` channels or classes, `H, W` pixels.
"""

import torch
from torch import Tensor

from tima.attacks.losses import LogitsFn, ce, margin
from tima.health._chance import most_by_chance
from tima.health._make import from_value, not_measured
from tima.health._probe import Probe, moved_sign_mass, pixel_gradient
from tima.results import Indicator

BATCHES = (1, 7)  # compared with all images at once; 7 leaves a smaller last batch
TIE = 0.01  # of the largest logit: closer answers than this may change places by rounding, in bf16 too (8 bits: 0.4 %)
SIGN_MASS = 0.05  # our choice: of the gradient's mass with another sign; steps lose twice as much of their first-order effect
PRECISION_MASS = 0.1  # the same between two precisions: a fifth of the first-order effect is lost
PRECISION_RATE = 0.05  # of the predictions that are no ties


def batch_invariance(probe: Probe) -> Indicator:
    """Largest share of predictions, or of gradient mass by sign, that differs between batches of 1, of 7 and all at once.

    Looks at what the attack called. Batch norm in training mode fails here, and low precision with a loss averaged over
    the batch, which shrinks gradients until they underflow.
    """
    model = probe.attack_fn or probe.logits_fn
    whole_BC, whole_BCHW = _seen(probe, model, len(probe.image_BCHW))
    value = 0.0
    for size in BATCHES:
        part_BC, part_BCHW = _seen(probe, model, size)
        changed = float(_other_answer(part_BC, whole_BC).float().mean())
        value = max(value, changed, moved_sign_mass(part_BCHW, whole_BCHW), moved_sign_mass(whole_BCHW, part_BCHW))
    note = f"predictions or gradients depend on the batch ({value:.0%} differ between batches of 1, 7 and all)"
    # other batch sizes take other kernels, whose rounding in reduced precision is what `precision` allows
    limit = SIGN_MASS if probe.attack_fn is None else PRECISION_MASS
    return from_value("batch invariance", value, limit, note)


def precision(probe: Probe) -> Indicator:
    """What the attack called against the judged model: gradient mass of another sign, and predictions."""
    if probe.attack_fn is None:
        return not_measured("precision", "the attack called the judged model itself")
    fast_BC, fast_BCHW = _seen(probe, probe.attack_fn, len(probe.image_BCHW))
    exact_BC, exact_BCHW = _seen(probe, probe.logits_fn, len(probe.image_BCHW))
    other, n = int(_other_answer(fast_BC, exact_BC).sum()), len(fast_BC)
    value = moved_sign_mass(exact_BCHW, fast_BCHW)
    seen = f"{value:.1%} of the gradient's mass has another sign and {other} of {n} predictions differ from fp32"
    found = from_value("precision", value, PRECISION_MASS, f"the attack's precision misleads it: {seen}", seen)
    if other > most_by_chance(n, PRECISION_RATE):
        return found.model_copy(update={"fired": True, "note": f"the attack's precision misleads it: {seen}"})
    return found


def _seen(probe: Probe, model: LogitsFn, size: int) -> tuple[Tensor, Tensor]:
    """Logits and pixel gradients, in batches of `size`."""
    pairs = list(zip(probe.image_BCHW.split(size), probe.label_B.split(size), strict=True))
    logits_BC = torch.cat([probe.logits(image_BCHW, model) for image_BCHW, _ in pairs])
    loss = margin if probe.scale_free else ce
    return logits_BC, torch.cat([pixel_gradient(model, image_BCHW, label_B, loss) for image_BCHW, label_B in pairs]).float()


def _other_answer(first_BC: Tensor, second_BC: Tensor) -> Tensor:
    """Predictions that differ though neither side finds them close."""
    if second_BC.shape[1] < 2:
        return torch.zeros(len(second_BC), dtype=torch.bool, device=second_BC.device)
    top_B2 = second_BC.topk(2, dim=1).values
    clear_B = top_B2[:, 0] - top_B2[:, 1] > TIE * second_BC.abs().max()
    return (first_BC.argmax(1) != second_BC.argmax(1)) & clear_B
