"""Continuous batching: everybody is searched to their own end, and the batch stays full while anybody waits."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tima.attacks._kept import filled, flat
from tima.attacks._pool import Rows, run_pool
from tima.attacks.projections import LInfBall


@dataclass
class Countdown(Rows):
    row_N: Tensor
    left_N: Tensor
    ball: LInfBall


@pytest.mark.parametrize("batch_size", [None, 1, 3, 100])
def test_every_row_runs_to_its_own_end_in_a_full_batch(batch_size: int | None) -> None:
    life_N = torch.tensor([3, 1, 4, 1, 5, 9, 2, 6])
    image_N = torch.linspace(0.1, 0.8, 8).view(-1, 1, 1, 1)
    sizes: list[int] = []
    ended: list[int] = []
    found: dict[int, float] = {}

    def begin(row_N: Tensor) -> Countdown:
        return Countdown(row_N, life_N[row_N].clone(), LInfBall(image_N[row_N], image_N[row_N]))

    def advance(state: Countdown) -> Tensor:
        sizes.append(len(state))
        state.left_N = state.left_N - 1
        ended.append(int((state.left_N == 0).sum()))
        return state.left_N == 0

    def end(state: Countdown) -> None:
        for row, low in zip(state.row_N.tolist(), state.ball.low_BCHW.flatten().tolist(), strict=True):
            assert row not in found
            found[row] = low

    run_pool(8, batch_size, begin, advance, end, torch.device("cpu"))
    assert found == {i: float(image_N[i]) for i in range(8)}, "each row ends once, with its own tensors"
    assert sum(sizes) == int(life_N.sum()), "no row is advanced after its end"
    size = min(8, batch_size or 8)
    begun = size
    for step, number in enumerate(sizes):
        if begun < 8:
            assert number == size, f"step {step}: {number} in the batch while images wait"
        begun = size + sum(ended[: step + 1])


def test_a_state_is_kept_by_name_and_filled_in_again() -> None:
    image_N = torch.rand(3, 1, 2, 2)
    state = Countdown(torch.arange(3), torch.tensor([3, 1, 4]), LInfBall(image_N, image_N + 1))
    kept = flat(state, "rows")
    assert sorted(kept) == ["rows.ball.high_BCHW", "rows.ball.low_BCHW", "rows.left_N", "rows.row_N"]
    other = Countdown(torch.zeros(1), torch.zeros(1), LInfBall(image_N[:1] * 0, image_N[:1] * 0))
    again = filled(other, {name: tensor.clone() for name, tensor in kept.items()}, "rows")
    assert isinstance(again, Countdown) and isinstance(again.ball, LInfBall)
    assert all(torch.equal(value, kept[name]) for name, value in flat(again, "rows").items())


def test_a_pool_goes_on_from_a_state_and_tells_of_every_step() -> None:
    """Two of five are in the batch, one of them half way; the others have not begun."""
    told: list[tuple[list[int], int]] = []
    ended: list[int] = []

    def begin(row_N: Tensor) -> Countdown:
        return Countdown(row_N, torch.full_like(row_N, 2), LInfBall(row_N, row_N))

    def advance(state: Countdown) -> Tensor:
        state.left_N = state.left_N - 1
        return state.left_N == 0

    half = Countdown(torch.tensor([0, 2]), torch.tensor([2, 1]), LInfBall(torch.zeros(2), torch.zeros(2)))
    run_pool(
        5, 2, begin, advance, lambda state: ended.extend(state.row_N.tolist()), torch.device("cpu"),
        (half, 3), lambda state, taken: told.append((state.row_N.tolist(), taken)),
    )  # fmt: skip
    assert ended == [2, 0, 3, 4]
    assert told == [([0], 3), ([3], 4), ([4], 5)]


def test_nothing_to_do_is_fine() -> None:
    def never(*_: object) -> Tensor:
        raise AssertionError("called for no images")

    run_pool(0, 4, never, never, never, torch.device("cpu"))  # type: ignore[arg-type, type-var]
