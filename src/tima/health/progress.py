"""Did the attack get anywhere on the images that it did not break?

Shapes: `B` images, `S` of them that stand, `C` channels or classes, `H, W` pixels.
"""

import torch
from torch import Tensor

from tima.attacks.losses import ce, margin
from tima.attacks.projections import make_ball
from tima.health._make import from_count
from tima.health._probe import Probe
from tima.results import Indicator


def loss_rise(probe: Probe) -> Indicator:
    """Standing images where the attack ended with a loss no higher than one random point at the same eps has.

    Both cross-entropy and margin must have stayed that low: which of them was climbed is the attack's business.
    """
    index_S = probe.standing_B.nonzero()[:, 0]
    image_SCHW, label_S = probe.image_BCHW[index_S], probe.label_B[index_S]
    if len(index_S) == 0:
        return from_count("loss rise", 0, 0, "", none="the attack broke every image")
    eps_S = torch.full((len(index_S),), probe.eps, device=image_SCHW.device)
    random_SC = probe.logits(make_ball(probe.norm, image_SCHW, eps_S).random(probe.generators(index_S)))
    clean_SC, end_SC = probe.clean_BC[index_S], probe.logits(probe.adversarial_BCHW[index_S])
    flat_S = torch.ones_like(label_S, dtype=torch.bool)
    for loss in (ce, margin):
        floor_S = torch.maximum(loss(clean_SC, label_S), loss(random_SC, label_S))
        flat_S &= ~(loss(end_SC, label_S) > floor_S)
    note = "the loss did not rise above that of a random point, on images that the attack left standing"
    found = from_count("loss rise", int(flat_S.sum()), len(flat_S), note)
    change = f"cross-entropy from {_mean(ce(clean_SC, label_S))} to {_mean(ce(end_SC, label_S))}"
    return found.model_copy(update={"note": f"{found.note}; {change}"})


def _mean(loss_S: Tensor) -> str:
    return f"{float(loss_S.mean()):.3g}"
