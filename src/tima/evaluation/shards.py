"""Several processes, each with its share of the images (`torchrun` or `accelerate launch`).

Outcomes travel through the files of the store, never through messages: the same files carry an interrupted evaluation on.
Processes only wait for each other here, and hear when one cannot go on. Shapes: `N` positions.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tima.distributed import launched
from tima.errors import TimaError

WAIT = timedelta(days=30)  # the fastest process waits for the slowest, which may be attacking for days


class ElsewhereError(TimaError):
    """Another process of the same launch could not go on."""


@dataclass(frozen=True)
class Shards:
    """This process among `size`. Without a launcher there is one, and waiting is nothing."""

    rank: int = 0
    size: int = 1
    group: Any = field(default=None, repr=False)

    @classmethod
    def join(cls) -> "Shards":
        """Find the other processes of this launch."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if launched() < 2:
                return cls()
            dist.init_process_group("gloo", timeout=WAIT)
        if dist.get_world_size() < 2:
            return cls()
        # a group of our own: nccl's barriers give up after minutes and need a GPU
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=WAIT))

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, position_N: Tensor) -> Tensor:
        """Every `size`-th position: shares of equal length whose images are alike."""
        return position_N[self.rank :: self.size]

    def wait(self) -> None:
        """Until every process is here.

        Raises:
            ElsewhereError: another one could not go on; all that wait stop together, so that the next data set finds them all.
        """
        for rank, why in enumerate(self._tell(None)):
            if why is not None:
                raise ElsewhereError(f"Process {rank} of {self.size} could not go on: {why}")

    def fail(self, error: Exception) -> None:
        """Tell the others, who wait or will, that this process cannot go on. Who was told so does not say it again."""
        if not isinstance(error, ElsewhereError):
            with suppress(RuntimeError):  # the others are gone: what is wrong here is what must be seen
                self._tell(str(error) or type(error).__name__)

    def _tell(self, why: str | None) -> list[str | None]:
        """What each process says; every call of one meets a call of every other."""
        said: list[str | None] = [why] * self.size
        if self.size > 1:
            dist.all_gather_object(said, why, group=self.group)
        return said

    def agree(self, value: Any) -> Any:
        """The main process's value, everywhere."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]


def is_main_process() -> bool:
    """Whether this process prints and writes, before torch is loaded."""
    return os.environ.get("RANK", "0") == "0"
