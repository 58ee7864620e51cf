"""Several processes, each with its share of the images (`torchrun` or `accelerate launch`).

Outcomes travel through the files of the store, never through messages: the same files carry an interrupted evaluation on.
Processes only wait for each other here. Shapes: `N` positions.
"""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

WAIT = timedelta(days=30)  # the fastest process waits for the slowest, which may be attacking for days


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
            if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ:
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
        """Until every process is here."""
        if self.size > 1:
            dist.barrier(group=self.group)

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
