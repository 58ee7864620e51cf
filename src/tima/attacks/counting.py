"""`CountedModel`: what an attack cost, in images sent forward and backward, and whether its gradients were alive.

Shapes: `B` images, `C` channels, `H, W` pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GradientStats:
    """Counts over all pixel gradients of an attack; add two of them for two attacks or two processes.

    Attributes:
        images: gradients computed, one an image and backward pass.
        values: numbers in them.
        zero_values: numbers that were exactly 0.
        zero_images: gradients without any other number than 0: a step along them leads nowhere.
        non_finite_values: NaN or infinite numbers.
    """

    images: int = 0
    values: int = 0
    zero_values: int = 0
    zero_images: int = 0
    non_finite_values: int = 0

    def __add__(self, other: "GradientStats") -> "GradientStats":
        return GradientStats(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def zero_value_share(self) -> float:
        """Share of exact zeros among all numbers; 0 where there were none."""
        return self.zero_values / max(self.values, 1)

    @property
    def zero_image_share(self) -> float:
        """Share of gradients that were 0 in every pixel."""
        return self.zero_images / max(self.images, 1)

    @property
    def non_finite_share(self) -> float:
        """Share of NaN or infinite numbers."""
        return self.non_finite_values / max(self.values, 1)


class CountedModel:
    """Wraps a `logits_fn` and counts the images of every forward and of every backward through it.

    Attributes:
        forwards: images sent forward.
        backwards: images whose gradient was computed.
    """

    def __init__(self, logits_fn: Callable[[Tensor], Tensor]) -> None:
        self.logits_fn = logits_fn
        self.reset()

    def reset(self, forwards: int = 0, backwards: int = 0, gradients: GradientStats | None = None) -> None:
        """Start counting again, at 0 or where an earlier count ended."""
        self.forwards, self.backwards, self._earlier = forwards, backwards, gradients or GradientStats()
        self._images = self._values = 0
        self._sums: Tensor | None = None  # zero values, zero images, non-finite values; on the device, read once at the end

    @property
    def gradients(self) -> GradientStats:
        """What the pixel gradients looked like so far. Waits for the device."""
        zero_values, zero_images, non_finite = (0, 0, 0) if self._sums is None else self._sums.tolist()
        return self._earlier + GradientStats(self._images, self._values, zero_values, zero_images, non_finite)

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        self.forwards += len(image_BCHW)
        if image_BCHW.requires_grad and torch.is_grad_enabled():
            # a view of its own: its gradient is this call's share, also where an attack sends one tensor through twice
            image_BCHW = image_BCHW.view_as(image_BCHW)
            if image_BCHW.requires_grad:  # not in inference mode, where the attack will say so
                image_BCHW.register_hook(self._look_at)
        output = self.logits_fn(image_BCHW)
        if output.requires_grad:
            output.register_hook(self._count_backward)
        return output

    @property
    def exact(self) -> Callable[[Tensor], Tensor] | None:
        """The model in fp32, counted too, where `logits_fn` computes in less (see `_broken.py`); else None."""
        exact: Callable[[Tensor], Tensor] | None = getattr(self.logits_fn, "exact", None)
        if exact is None:
            return None

        def counted(image_BCHW: Tensor) -> Tensor:
            self.forwards += len(image_BCHW)
            return exact(image_BCHW)

        return counted

    @property
    def tolerance(self) -> float:
        """How far the logits may be from `exact`'s (see `_broken.py`)."""
        return float(getattr(self.logits_fn, "tolerance", math.inf))

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

    def _look_at(self, gradient_BCHW: Tensor) -> None:
        zero_BP = gradient_BCHW.detach().flatten(1) == 0
        bad = (~gradient_BCHW.detach().isfinite()).sum()
        sums = torch.stack([zero_BP.sum(), zero_BP.all(1).sum(), bad])
        self._images += len(gradient_BCHW)
        self._values += gradient_BCHW.numel()
        self._sums = sums if self._sums is None else self._sums + sums
