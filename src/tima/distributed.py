"""Several processes that train as one: who does what, what they tell each other, and how they stop together.

    torchrun --nproc_per_node=8 -m tima train --method tima --out runs/x      # docs/distributed.md

Each process works on its slice of the same global batch. What a step computes is a sum over the images of that batch, so the
sum over processes is what one process would have found. Losses that compare images of a batch with each other take the other
processes' rows through `gather_rows`, whose gradients go back to where the rows were made.

Shapes: `B` rows of this process, `N` rows of all processes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tima.errors import TrainingError

T = TypeVar("T")
WAIT = timedelta(hours=2)  # for a process that is silent but not gone; one that is gone is noticed at once


@dataclass
class Team:
    """This process among `size`. Without a launcher there is one, and nothing is said to anybody.

    Attributes:
        group: for messages between CPUs: a group of our own, because nccl's wants tensors on GPUs and gives up after minutes.
        rows: images that each process holds in the part of the batch that is being worked on, in the order of processes.
        busy: whether processes have exchanged something while they worked on it.
    """

    rank: int = 0
    size: int = 1
    group: Any = field(default=None, repr=False)
    rows: list[int] = field(default_factory=list)
    busy: bool = False

    @classmethod
    def join(cls, rank: int, size: int) -> "Team":
        """The processes of this launch. Every one of them must call this."""
        return cls() if size < 2 else cls(rank, size, dist.new_group(backend="gloo", timeout=WAIT))

    @property
    def main(self) -> bool:
        return self.rank == 0

    def shares(self, items: Sequence[T]) -> list[list[T]]:
        """Every process's slice: neighbours, sizes that differ by one at most."""
        cuts = [len(part) for part in torch.arange(len(items)).tensor_split(self.size)]
        starts = [sum(cuts[:i]) for i in range(self.size)]
        return [list(items[start : start + n]) for start, n in zip(starts, cuts, strict=True)]

    def check(self, error: BaseException | None, count: int = 0) -> int:
        """All go on, or none does: the sum of what they count, unless one of them has met an error.

        Raises:
            BaseException: the error that was given.
            TrainingError: another process's.
        """
        if self.group is None:
            if error is not None:
                raise error
            return count
        said = torch.tensor([0 if error is None else 1, count])
        dist.all_reduce(said, group=self.group)
        if int(said[0]):
            told = self.everyone(None if error is None else str(error) or type(error).__name__)
            if error is not None:
                raise error
            rank, why = next((rank, why) for rank, why in enumerate(told) if why is not None)
            raise TrainingError(f"Process {rank} of {self.size} could not go on, so none does. It says: {why}")
        return int(said[1])

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error inside the block, in whichever process, ends it in all of them. Nothing inside may wait for the others."""
        try:
            yield
        except Exception as error:
            self.check(error)
        else:
            self.check(None)

    def everyone(self, value: T) -> list[T]:
        """What each process says, in their order."""
        said: list[Any] = [value] * self.size
        if self.group is not None:
            dist.all_gather_object(said, value, group=self.group)
        return said

    def agree(self, value: T) -> T:
        """The main process's value, everywhere."""
        box = [value]
        if self.group is not None:
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum over processes of each value."""
        if self.group is None:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        return [float(value) for value in sums]

    def main_does(self, work: Callable[[], object]) -> None:
        """The main process works, the others wait; a disk that is full there is an error everywhere."""
        with self.together():
            if self.main:
                work()

    @contextmanager
    def part(self, rows: list[int]) -> Iterator[None]:
        """`gather_rows` and its kin reach the other processes for as long as the block runs."""
        global _team
        before, self.rows, self.busy = _team, rows, False
        _team = self
        try:
            yield
        finally:
            _team = before


def meet_anew() -> None:
    """Processes that torchrun has started again meet under another name than those before them. Call it before anyone meets.

    torchrun keeps the store by which processes find each other, with the addresses of those that are gone in it: whoever is
    faster than process 0 calls there, and the restart fails (torch 2.13, static and c10d). The number of restarts tells them
    apart where one torchrun counts them; of several each has its own count: examples/launch/4x8gpu.sh asks for a new store.
    """
    given = os.environ
    again = given.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = given.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and given.get("GROUP_WORLD_SIZE") == "1"
    if again == "0" or not shared or dist.is_initialized():
        return
    size = int(given["WORLD_SIZE"])
    store = dist.TCPStore(given["MASTER_ADDR"], int(given["MASTER_PORT"]), size, is_master=False)
    on_cpu = given.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1") or not torch.cuda.is_available()
    named = dist.PrefixStore(f"restart {again}", store)
    dist.init_process_group("gloo" if on_cpu else "nccl", store=named, rank=int(given["RANK"]), world_size=size)


def launched() -> int:
    """How many processes a launcher started, as its environment says."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1  # some schedulers set the size alone


def mean_cpus() -> None:
    """On a machine of CPUs alone Accelerate has to be told that several processes are meant, or each would train alone."""
    if launched() > 1 and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")


_team = Team()  # a method's loss is a function of its inputs; that some of them are elsewhere is no business of its signature


def own_rows() -> slice:
    """Where this process's rows are among those that `gather_rows` returns."""
    if _team.group is None:
        return slice(None)
    start = sum(_team.rows[: _team.rank])
    return slice(start, start + _team.rows[_team.rank])


def gather_rows(row_BX: Tensor) -> Tensor:
    """The rows of all processes, in their order, `N x ...`; a single process gets its own back.

    Differentiable: a row's gradient is the sum of what all processes want of it, so every process must take part in the
    backward pass too, as it does in training and in the attack inside it. Row counts are those of the current part.
    """
    if _team.group is None:
        return row_BX
    _team.busy = True
    gathered: Tensor = _Gather.apply(row_BX, tuple(_team.rows), _team.rank)
    return gathered


def gather_texts(texts: Sequence[str]) -> list[str]:
    """The texts of all processes, in the same order."""
    _team.busy = _team.group is not None
    return [text for part in _team.everyone(list(texts)) for text in part]


def batch_mean(value_B: Tensor) -> Tensor:
    """Mean over the images of all processes, as a constant: for losses that are measured in a unit of the batch's own."""
    if _team.group is None:
        return value_B.detach().mean()
    _team.busy = True
    total, n = _team.total([float(value_B.detach().sum()), len(value_B)])
    return value_B.new_tensor(total / n)


def batch_share(count: int, of: int) -> float:
    """What turns this process's sum over `count` of its `of` images into its part of the mean over all such images.

    For means that leave images out. The trainer weighs this process's loss by its share of the batch, `of / N`, and sums over
    processes, so `sum * batch_share` comes out as the sum over all processes by the number of those that count in all of them.
    """
    _team.busy = _team.group is not None
    total, images = _team.total([count, of])
    return images / (of * total) if total else 0.0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row_BX: Tensor, rows: tuple[int, ...], rank: int) -> Tensor:
        ctx.rows, ctx.rank = rows, rank
        padded = row_BX.new_zeros(max(rows), *row_BX.shape[1:])  # all_gather wants equal shapes
        padded[: len(row_BX)] = row_BX
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, rows, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Return.apply(gradients[0], ctx.rows, ctx.rank), None, None


class _Return(torch.autograd.Function):
    """The other direction: of what all processes hold for all rows, the sum for this one's. GradAlign differentiates it."""

    @staticmethod
    def forward(ctx: Any, row_NX: Tensor, rows: tuple[int, ...], rank: int) -> Tensor:
        ctx.rows, ctx.rank = rows, rank
        sum_NX = row_NX.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(sum_NX)
        return sum_NX[sum(rows[:rank]) : sum(rows[: rank + 1])].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Gather.apply(gradients[0], ctx.rows, ctx.rank), None, None
