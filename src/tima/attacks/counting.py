"""`CountedModel`: what an attack cost, in images sent forward and backward.

Shapes: `B` images.
"""

from collections.abc import Callable

from torch import Tensor


class CountedModel:
    """Wraps a `logits_fn` and counts the images of every forward and of every backward through it.

    Attributes:
        forwards: images sent forward.
        backwards: images whose gradient was computed.
    """

    def __init__(self, logits_fn: Callable[[Tensor], Tensor]) -> None:
        self.logits_fn = logits_fn
        self.reset()

    def reset(self) -> None:
        """Start counting at 0 again."""
        self.forwards = self.backwards = 0

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        self.forwards += len(image_BCHW)
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

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
