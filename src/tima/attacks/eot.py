"""Expectation over transformation (Athalye et al. 2018, arXiv 1707.07397): an attack on a model that draws random numbers.

A single pass gives the gradient of one draw; what has to fall is the mean over all of them. Shapes: `B` images, `C` classes.
"""

from dataclasses import dataclass

from torch import Tensor

from tima.attacks.losses import LogitsFn
from tima.errors import RecipeError


@dataclass(frozen=True)
class Expected:
    """The mean of a model's logits over `samples` passes, as one `logits_fn`."""

    logits_fn: LogitsFn
    samples: int

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        total_BC = self.logits_fn(image_BCHW).float()
        for _ in range(self.samples - 1):
            total_BC = total_BC + self.logits_fn(image_BCHW).float()
        return total_BC / self.samples

    @property
    def exact(self) -> LogitsFn | None:
        """The same in fp32, where the model computes in less (see `_broken.py`); else None."""
        exact: LogitsFn | None = getattr(self.logits_fn, "exact", None)
        return None if exact is None else Expected(exact, self.samples)


def expected(logits_fn: LogitsFn, samples: int) -> Expected:
    """Average the logits over random passes.

    Args:
        logits_fn: a model that answers differently each time (a random layer, a random defence: see `bpda.defended`).
        samples: passes a call; each costs a forward, and memory until the backward.

    Returns:
        A `logits_fn` for every attack.

    Raises:
        RecipeError: `samples` below 1.
    """
    if samples < 1:
        raise RecipeError(f"An expectation over {samples} passes is none; take at least 1.")
    return Expected(logits_fn, samples)
