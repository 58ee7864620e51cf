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

    def _count_backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
