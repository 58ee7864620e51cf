"""Adversarial weight perturbation: each step's gradient is taken at nearby weights of higher loss.

Source: Wu et al., NeurIPS 2020, arXiv 2004.05884. Formula numbers are those of docs/method.md.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from tima.config import AwpSettings
from tima.distributed_sharding import length
from tima.modifiers.base import Modifier, Params


class Awp(Modifier):
    """One step of ascent on the weights against the batch's own adversarial images, which are not crafted anew.

    Only matrices move, as in the published code: biases and norms stay. The learning step then starts from the weights as they
    were. It costs a second forward and backward pass of the outer loss, and no further attack.
    """

    name = "awp"
    looks_again = True

    def __init__(self, settings: AwpSettings, first_step: int) -> None:
        self.gamma, self.first_step = settings.gamma, first_step

    def worst_weights(self, params: Params, step: int) -> AbstractContextManager[None] | None:
        return _perturbed(params, self.gamma) if step >= self.first_step else None


@contextmanager
def _perturbed(params: Params, gamma: float) -> Iterator[None]:
    kept = {}
    with torch.no_grad():
        for name, p in params.items():
            if p.ndim < 2 or p.grad is None or not (size := length(p.grad)) > 0:
                continue
            kept[name] = p.detach().clone()
            # (27) AWP: w + v, v = gamma ||w|| g / ||g||, a matrix at a time; g the gradient of the batch's loss at w
            p.add_(p.grad, alpha=gamma * length(p.detach()) / size)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                params[name].copy_(value)
