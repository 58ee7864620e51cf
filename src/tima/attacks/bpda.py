"""Attacks through a test-time defence whose gradient is missing or useless: BPDA, Athalye et al. 2018, arXiv 1802.00420.

A defence that only makes gradients useless (rounding, compression, a denoiser in a loop) stops an attack that differentiates
through it, not an attacker. Forward everything runs as deployed; backward, the defence counts as something smooth that does
nearly the same. Defences that draw random numbers need `eot.expected` around the whole as well.

Shapes: `B` images, `C` channels, `H, W` pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tima.attacks.losses import LogitsFn
from tima.errors import ModelError

Defence = Callable[[Tensor], Tensor]


def straight_through(defence: Defence, surrogate: Defence | None = None) -> Defence:
    """The defence's exact values with the surrogate's gradient.

    Args:
        defence: images to images, before the model.
        surrogate: a differentiable stand-in; by default the identity, which fits every defence that changes an image little.

    Returns:
        A callable like `defence`.

    Raises:
        ModelError: on a call, when defence and surrogate return different shapes.
    """

    def through(image_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            exact = defence(image_BCHW.detach())
        smooth = image_BCHW if surrogate is None else surrogate(image_BCHW)
        if exact.shape != smooth.shape:
            raise ModelError(
                f"The defence returns {tuple(exact.shape)}, its surrogate {tuple(smooth.shape)}. A defence that resizes needs "
                "a surrogate that does the same."
            )
        result: Tensor = _StraightThrough.apply(smooth, exact)  # type: ignore[no-untyped-call]
        return result

    return through


@dataclass(frozen=True)
class Defended:
    """A model behind a defence, as one `logits_fn`: what is deployed is what an attack has to see."""

    logits_fn: LogitsFn
    defence: Defence

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        return self.logits_fn(self.defence(image_BCHW))

    @property
    def exact(self) -> LogitsFn | None:
        """The same in fp32, where the model computes in less (see `_broken.py`); else None."""
        exact: LogitsFn | None = getattr(self.logits_fn, "exact", None)
        return None if exact is None else Defended(exact, self.defence)


def defended(logits_fn: LogitsFn, defence: Defence, *, bpda: bool = True, surrogate: Defence | None = None) -> Defended:
    """The model with the defence before it.

    Args:
        logits_fn: pixels in [0, 1] to logits.
        defence: images to images.
        bpda: attack through `straight_through`; else gradients are the defence's own, whatever they are worth.
        surrogate: see `straight_through`.

    Returns:
        A `logits_fn` for every attack and for `CountedModel`.
    """
    return Defended(logits_fn, straight_through(defence, surrogate) if bpda else defence)


class _StraightThrough(torch.autograd.Function):
    """`exact` forward, the gradient of `smooth` backward; their difference added to one of them would round."""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, exact: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[0], None
