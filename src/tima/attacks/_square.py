"""The search of Square Attack, Andriushchenko et al. 2020, arXiv 1912.00049, Algorithm 1. What people call is in `square.py`.

Every image draws from its own generator, in chunks, and has counters of its own, so that its search depends neither on its
neighbours nor on the size of the batch. What is proposed is in `_squares.py` and `_square_l2.py`.

Shapes: `A` images in the batch, `N` rows of its state, `C` channels or classes, `H, W` pixels, `R` random numbers a query,
`T` queries whose numbers are drawn at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tima.attacks._broken import misclassified
from tima.attacks._generators import draw
from tima.attacks._pool import Rows
from tima.attacks._pooled import PooledSearch
from tima.attacks._squares import Squares
from tima.attacks.losses import LossFn
from tima.attacks.projections import Ball

CHUNK = 128  # T


@dataclass
class SquareRows(Rows):
    """Where the search of each image in the batch stands."""

    row_N: Tensor
    query_N: Tensor  # asked in this run, on the CPU; -1: the start comes next
    run_N: Tensor  # on the CPU
    label_N: Tensor
    ball: Ball
    image_NCHW: Tensor
    random_NTR: Tensor
    x_NCHW: Tensor  # the run's best point
    loss_N: Tensor
    broken_N: Tensor
    best_NCHW: Tensor  # the best over all runs
    best_loss_N: Tensor
    best_broken_N: Tensor


@dataclass(kw_only=True)
class SquareSearch(PooledSearch[SquareRows]):
    """Random search: a proposal that is better becomes the point from which the next one is made."""

    squares: Squares
    queries: int
    restarts: int
    climb: LossFn
    targeted: bool
    stop_when_broken: bool
    generators: Sequence[torch.Generator]

    def search(self, batch_size: int | None) -> Tensor:
        with torch.no_grad():
            return super().search(batch_size)

    def draws(self) -> list[torch.Generator]:
        return list(self.generators)

    def begin(self, row_N: Tensor) -> SquareRows:
        image_ACHW, zero_A = self.starts.image_NCHW[row_N], torch.zeros(len(row_N), dtype=torch.long)
        nothing_A = torch.full((len(row_N),), -torch.inf, device=image_ACHW.device)
        never_A = torch.zeros_like(nothing_A, dtype=torch.bool)
        return SquareRows(
            row_N=row_N,
            query_N=zero_A - self.starts.extra,
            run_N=zero_A,
            label_N=self.label_N[row_N],
            ball=self.starts.ball(row_N),
            image_NCHW=image_ACHW,
            random_NTR=image_ACHW.new_zeros(len(row_N), CHUNK, self.squares.numbers),
            **{"x_NCHW": image_ACHW, "loss_N": nothing_A, "broken_N": never_A},
            **{"best_NCHW": image_ACHW, "best_loss_N": nothing_A, "best_broken_N": never_A},
        )

    def advance(self, rows: SquareRows) -> Tensor:
        """One query of every row. Returns, on the CPU, whose search has ended."""
        x_ACHW = self._propose(rows)
        output_AC = self.logits_fn(x_ACHW)
        self.look_once(output_AC, rows.label_N)
        loss_A = self.climb(output_AC, rows.label_N)
        self.bad = self.bad | ~loss_A.sum().isfinite()
        broken_A = misclassified(self.logits_fn, x_ACHW, output_AC, rows.label_N, self.targeted)
        # a misclassified point wins over any other (Algorithm 1), whatever the loss says
        better_A = (broken_A & ~rows.broken_N) | ((broken_A == rows.broken_N) & (loss_A > rows.loss_N))
        rows.x_NCHW = torch.where(better_A[:, None, None, None], x_ACHW, rows.x_NCHW)
        rows.loss_N = torch.where(better_A, loss_A, rows.loss_N)
        rows.broken_N = rows.broken_N | broken_A
        rows.query_N = rows.query_N + 1
        over_A = (rows.query_N == self.queries) | (rows.query_N == 0)
        if self.stop_when_broken:
            over_A = over_A | rows.broken_N.cpu()
        return self._finish_run(rows, over_A) if bool(over_A.any()) else over_A

    def _propose(self, rows: SquareRows) -> Tensor:
        """What each row asks about next: the start, the first point of a run, or the best point with another square."""
        step_N, device = rows.query_N.clamp(min=0), rows.x_NCHW.device
        first_A, due_A = rows.query_N == 0, rows.query_N % CHUNK == 0
        if bool(due_A.any()):
            random = draw(self._of(rows, due_A), (CHUNK, self.squares.numbers), device)
            rows.random_NTR = _put(rows.random_NTR, due_A, random)
        random_AR = rows.random_NTR[torch.arange(len(rows)), step_N % CHUNK]
        x_ACHW = self.squares.propose(rows.image_NCHW, rows.x_NCHW, rows.ball, step_N, random_AR)
        if bool(first_A.any()):
            part, random = rows.select(first_A), draw(self._of(rows, first_A), (self.squares.first_numbers,), device)
            x_ACHW = _put(x_ACHW, first_A, self.squares.first(part.image_NCHW, part.ball, random))
        start_A = rows.query_N < 0
        if bool(start_A.any()):
            part = rows.select(start_A)
            x_ACHW = _put(x_ACHW, start_A, self.starts.point(0, part.row_N, part.ball))
        return x_ACHW

    def _of(self, rows: SquareRows, chosen_A: Tensor) -> list[torch.Generator]:
        return [self.generators[row] for row in rows.row_N[chosen_A].tolist()]

    def _finish_run(self, rows: SquareRows, over_A: Tensor) -> Tensor:
        """Rows whose run is over hand in its best point and begin the next run. Returns whose search has ended."""
        over = over_A.to(rows.x_NCHW.device)
        better_A = (rows.broken_N & ~rows.best_broken_N) | (
            (rows.broken_N == rows.best_broken_N) & (rows.loss_N > rows.best_loss_N)
        )
        better_A = better_A & over
        rows.best_NCHW = torch.where(better_A[:, None, None, None], rows.x_NCHW, rows.best_NCHW)
        rows.best_loss_N = torch.where(better_A, rows.loss_N, rows.best_loss_N)
        rows.best_broken_N = rows.best_broken_N | (rows.broken_N & over)
        rows.loss_N, rows.broken_N = rows.loss_N.masked_fill(over, -torch.inf), rows.broken_N & ~over
        rows.run_N = rows.run_N + (over_A & (rows.query_N > 0))  # the start is no run
        rows.query_N = rows.query_N.masked_fill(over_A, 0)
        ended_A = rows.run_N == self.restarts
        return ended_A | rows.best_broken_N.cpu() if self.stop_when_broken else ended_A

    def outcome(self, rows: SquareRows) -> Tensor:
        return rows.best_NCHW


def _put(all_A: Tensor, chosen_A: Tensor, part: Tensor) -> Tensor:
    return all_A.index_copy(0, chosen_A.nonzero()[:, 0].to(all_A.device), part)
