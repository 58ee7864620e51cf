"""Continuous batching: an image whose search has ended leaves the batch at once, and a waiting one takes its place.

Most images fall within a few steps, a few hold out to the last. A batch that only shrinks ends with a handful of images on
idle hardware; a refilled one is full until nothing waits any more. Shapes: `N` images in all, `B` images in the batch.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor


class Rows:
    """Base of an attack's state, a dataclass: every tensor has one row an image, or a run of one, in the batch; so do
    nested `Rows`.

    Fields of other types (numbers, None) are shared by all images and must be equal wherever two states are joined.
    """

    row_N: Tensor  # which of all the images each row is of

    def __len__(self) -> int:
        return len(self.row_N)

    def select(self, keep: Tensor) -> Self:
        """The rows that an index or a mask chooses."""
        return _map(self, lambda value: value[keep] if isinstance(value, Tensor) else value.select(keep))

    def join(self, other: Self) -> Self:
        """These rows, then the other's."""
        return _map(self, lambda mine, its: torch.cat([mine, its]) if isinstance(mine, Tensor) else mine.join(its), other)


def _map(state: Any, change: Callable[..., Any], *others: Any) -> Any:
    """A copy of a dataclass with each tensor and each nested set of rows changed."""
    assert is_dataclass(state)
    values = {}
    for field in fields(state):
        mine = getattr(state, field.name)
        if isinstance(mine, Tensor) or (hasattr(mine, "select") and hasattr(mine, "join")):
            values[field.name] = change(mine, *(getattr(other, field.name) for other in others))
    return replace(state, **values)  # type: ignore[type-var]


State = TypeVar("State", bound="Rows")


def run_pool(
    total: int,
    batch_size: int | None,
    begin: Callable[[Tensor], State],
    advance: Callable[[State], Tensor],
    end: Callable[[State], None],
    device: torch.device,
    begun: "tuple[State | None, int] | None" = None,
    between: "Callable[[State | None, int], None] | None" = None,
    choose: "Callable[[int, int, State | None], tuple[Tensor, int]] | None" = None,
) -> None:
    """Carry `total` images through a search, at most `batch_size` at a time.

    Args:
        total: how many images there are; where each is searched in several runs, how many runs.
        batch_size: images in the batch; None: all at once.
        begin: indices of images to the state in which their search begins.
        advance: one step of every row, changing the state in place; returns which rows have ended (bool, one a row).
        end: takes the state of the rows that have ended.
        device: where the indices live.
        begun: go on from this state, in which so many images have begun.
        between: told the state after every step (None: the batch is empty and some wait), and how many images have begun.
        choose: asked with how many have begun or been passed over, how many there is room for, and the batch: who begins
            now, and how many have then begun or been passed over. By default the next ones, as many as there is room for.
    """
    size = total if batch_size is None else min(total, batch_size)
    state, taken = begun if begun is not None else (None, 0)
    while taken < total or state is not None:
        room = size - (0 if state is None else len(state))
        if taken < total and room > 0:
            if choose is None:
                chosen, taken = torch.arange(taken, min(total, taken + room)), min(total, taken + room)
            else:
                chosen, taken = choose(taken, room, state)
            if len(chosen):
                fresh = begin(chosen.to(device))
                state = fresh if state is None else state.join(fresh)
        if state is None:  # all that waited were passed over
            continue
        ended_B = advance(state)
        number = int(ended_B.sum())
        if number == len(state):
            end(state)
            state = None
        elif number:
            end(state.select(ended_B))
            state = state.select(~ended_B)
        if between is not None and (state is not None or taken < total):
            between(state, taken)
