"""What happens when memory runs out: the batch is halved, the same images are tried again, and the result says so."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from tima.errors import TimaError

BLOCK_BYTES = 256 << 20  # of fp32 pixels that one call of an attack carries, whatever the size of the set
BLOCK_BATCHES = 8  # batches in a block: few enough that a kill loses little, enough that the batch is refilled most of the time

_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed")
Found = TypeVar("Found")


class Limits:
    """How many images go through the model at once.

    Attributes:
        batch_size: of the moment; only ever falls.
        fallbacks: what was done otherwise than asked, for the result.
    """

    def __init__(self, batch_size: int) -> None:
        if batch_size < 1:
            raise TimaError(f"batch_size {batch_size} leaves no image in the batch; it must be at least 1.")
        self.batch_size = batch_size
        self.fallbacks: list[str] = []

    def block(self, shape: tuple[int, ...]) -> int:
        """Images that one call of an attack carries."""
        pixels = 4 * int(torch.Size(shape).numel())
        return max(self.batch_size, min(BLOCK_BYTES // pixels, BLOCK_BATCHES * self.batch_size))

    def attempt(self, work: Callable[[], Found], what: str) -> Found:
        """`work()`, with smaller and smaller batches while memory is short.

        Raises:
            TimaError: not even one image fits.
        """
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise TimaError(
                        f"Out of memory in {what} with a single image in the batch. What was finished is kept; the same "
                        "command goes on from there, for example on a machine with more memory."
                    ) from error
            self.batch_size //= 2
            self.fallbacks.append(f"out of memory in {what}: batch halved to {self.batch_size}")
            free_memory()

    def chunked(self, function: Callable[[Tensor], Tensor], image_NCHW: Tensor, what: str) -> Tensor:
        """`function` over all images, a batch at a time."""
        return self.attempt(lambda: torch.cat([function(part) for part in image_NCHW.split(self.batch_size)]), what)


def free_memory() -> None:
    """What a failed attempt still holds, back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(error: BaseException) -> bool:
    """Whether this is about memory: a GPU's, Python's or the C allocator's (a plain RuntimeError)."""
    gpu = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)  # torch 2.4 has only the second name
    return isinstance(error, (MemoryError, gpu)) or any(sign in str(error).lower() for sign in _SIGNS)
