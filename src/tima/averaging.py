"""What leaves a run instead of the last weights: their running mean, and a mixture with the original model.

Both combine with every method. Validation, and the model that is saved, see these weights; training goes on from its own.
"""

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Averages:
    """Exponential moving average and interpolation of the trained parameters.

    Args:
        params: the parameters that train, still at the original's values.
        ema: decay of the moving average, 0 for none (Polyak & Juditsky 1992, SIAM J. Control Optim. 30:838). In the first
            steps it is `(1 + t) / (10 + t)` where that is smaller, so that the start does not weigh on a short run.
        mix: share `a` of the tuned weights, `theta = (1 - a) theta_0 + a theta` (WiSE-FT, Wortsman et al. 2022,
            arXiv 2109.01903); 1 leaves the original out.
        unmixed: names of parameters that someone else mixes (adapters: the mean of two products is no product of means).
    """

    def __init__(
        self, params: Mapping[str, nn.Parameter], ema: float, mix: float, unmixed: Container[str] = frozenset()
    ) -> None:
        self.params, self.ema, self.mix = params, ema, mix
        self.mean = {name: p.detach().clone() for name, p in params.items()} if ema > 0 else {}
        kept = {name: p for name, p in params.items() if name not in unmixed} if mix < 1 else {}
        self.original = {name: p.detach().clone() for name, p in kept.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number `step`, counted from 0."""
        decay = min(self.ema, (1 + step) / (10 + step))
        for name, mean in self.mean.items():
            mean.lerp_(self.params[name], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The outgoing weights in the model for as long as the block runs; training's own come back bit for bit."""
        if not self.mean and not self.original:
            yield
            return
        own = {name: p.detach().clone() for name, p in self.params.items()}
        try:
            with torch.no_grad():
                for name, p in self.params.items():
                    value = self.mean.get(name, p)
                    p.copy_(torch.lerp(self.original[name], value, self.mix) if name in self.original else value)
            yield
        finally:
            with torch.no_grad():
                for name, p in self.params.items():
                    p.copy_(own[name])

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must keep; the original comes with the model."""
        return {f"mean.{name}": value for name, value in self.mean.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, mean in self.mean.items():
            mean.copy_(state[f"mean.{name}"])
