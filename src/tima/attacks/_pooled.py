"""What every search on the refilled batch does alike: the points found, the first look at the answers, NaN that must not pass.

Shapes: `N` images in all, `A` images in the batch, `C` channels or classes, `H, W` pixels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from tima.attacks._check import check_classes, not_finite
from tima.attacks._kept import Keeper, filled, flat
from tima.attacks._pool import Rows, run_pool
from tima.attacks._starts import Starts
from tima.attacks.losses import LogitsFn

R = TypeVar("R", bound=Rows)


@dataclass(kw_only=True)
class PooledSearch(ABC, Generic[R]):
    """A search for every image, each to its own end.

    Attributes:
        logits_fn: the model under attack.
        starts: where the runs begin.
        label_N: true classes, classes to reach, or what the loss takes.
    """

    logits_fn: LogitsFn
    starts: Starts
    label_N: Tensor

    @abstractmethod
    def begin(self, row_N: Tensor) -> R:
        """The state in which the search of some images begins."""

    @abstractmethod
    def advance(self, rows: R) -> Tensor:
        """One step of every row, in place. Returns, on the CPU, whose search has ended."""

    @abstractmethod
    def end(self, rows: R) -> None:
        """Take over (`take`) what was found by rows whose search has ended."""

    def search(self, batch_size: int | None) -> Tensor:
        """The point kept for each image, at most `batch_size` images at a time."""
        self.found_NCHW = torch.empty_like(self.starts.image_NCHW)
        # looked at when an image is done: asking a GPU every step stalls it
        self.bad = torch.zeros((), dtype=torch.bool, device=self.found_NCHW.device)
        self.label_N = self.label_N.detach().to(self.found_NCHW.device)
        self.asked = False
        keeper: Keeper | None = getattr(self.logits_fn, "keeper", None)
        if keeper is None or self.draws() is None:
            begun, between = None, None
        else:
            begun, between = self._went_on(keeper), partial(self._keep_all, keeper)
        cpu = torch.device("cpu")
        run_pool(self.total(), batch_size, self.begin, self.advance, self.end, cpu, begun, between, self.choose)
        return self.found_NCHW

    def total(self) -> int:
        """How many searches there are: one an image."""
        return len(self.found_NCHW)

    def choose(self, taken: int, room: int, rows: R | None) -> tuple[Tensor, int]:
        """Which searches begin now (see `run_pool`): the next ones."""
        until = min(self.total(), taken + room)
        return torch.arange(taken, until), until

    def results(self) -> dict[str, Tensor]:
        """What is known of the searches that have ended, to be kept and filled in again in place."""
        return {"found": self.found_NCHW, "bad": self.bad}

    def draws(self) -> list[torch.Generator] | None:
        """The generators that this search may ask, one an image; None where images share one and it cannot be kept."""
        return self.starts.own

    def _keep_all(self, keeper: Keeper, rows: R | None, taken: int) -> None:
        """All that the search stands on, between two steps. What met NaN is no state to go on from."""
        if keeper.due() and not bool(self.bad):
            random = [generator.get_state() for generator in self.draws() or []]
            tensors = {**self.results(), "taken": torch.tensor(taken), **({} if rows is None else flat(rows, "rows"))}
            keeper.save({**tensors, "random": torch.stack(random) if random else torch.empty(0)})

    def _went_on(self, keeper: Keeper) -> tuple[R | None, int] | None:
        """Where an earlier call of this search stood."""
        kept = keeper.load()
        if kept is None:
            return None
        empty = not any(name.startswith("rows.") for name in kept)
        rows = None if empty else filled(self.begin(torch.arange(1)), kept, "rows")  # what it draws is taken back below
        for generator, state in zip(self.draws() or [], kept["random"], strict=True):
            generator.set_state(state.clone())  # a view into the others is no state to torch
        for name, tensor in self.results().items():
            tensor.copy_(kept[name])
        self.asked = True
        return rows, int(kept["taken"])

    def look_once(self, output_AC: Tensor, label_A: Tensor) -> None:
        """Check the model's first answer: whether it has the classes that the labels mean."""
        if not self.asked:
            check_classes(output_AC, label_A)
            self.asked = True

    def take(self, rows: R, point_ACHW: Tensor) -> None:
        """These are the points to return."""
        not_finite(self.bad)
        self.found_NCHW[rows.row_N] = point_ACHW
