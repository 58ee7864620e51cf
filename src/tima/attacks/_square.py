"""The search of Square Attack, Andriushchenko et al. 2020, arXiv 1912.00049, Algorithm 1. What people call is in `square.py`.

Every image draws from its own generator, in chunks, and has counters of its own, so that its search depends neither on its
neighbours nor on the size of the batch. What is proposed is in `_squares.py` and `_square_l2.py`.

Few images that hold out leave the hardware idle, and most of their queries change nothing. So several queries of an image may
be asked at once, all from its best point: up to the first that is kept they are what would have been asked one after the other,
and what was asked after it is thrown away. The outcome is the same, the model is asked more often.

Shapes: `A` images in the batch, `N` rows of its state, `C` channels or classes, `H, W` pixels, `R` random numbers a query,
`T` queries whose numbers are drawn at once, `K` queries asked at once, `Q` rows the model is asked about: `A * K`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tima.attacks._broken import misclassified
from tima.attacks._generators import draw
from tima.attacks._pool import Rows
from tima.attacks._pooled import PooledSearch
from tima.attacks._runs import ROOM
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
    eager_N: Tensor  # queries asked at once where there is room, on the CPU: doubled while nothing is kept, else halved
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
    ahead: bool
    generators: Sequence[torch.Generator]

    def search(self, batch_size: int | None) -> Tensor:
        device = self.starts.image_NCHW.device.type
        self.room = min(batch_size or len(self.starts.image_NCHW), ROOM.get(device, 1)) if self.ahead else 1
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
            eager_N=zero_A + 1,
            label_N=self.label_N[row_N],
            ball=self.starts.ball(row_N),
            image_NCHW=image_ACHW,
            random_NTR=image_ACHW.new_zeros(len(row_N), CHUNK, self.squares.numbers),
            **{"x_NCHW": image_ACHW, "loss_N": nothing_A, "broken_N": never_A},
            **{"best_NCHW": image_ACHW, "best_loss_N": nothing_A, "best_broken_N": never_A},
        )

    def advance(self, rows: SquareRows) -> Tensor:
        """The next queries of every row, up to the first that is kept. Returns, on the CPU, whose search has ended."""
        self._draw(rows)
        many, ahead = rows, self._ahead(rows)
        if ahead > 1:
            many = rows.select(torch.arange(len(rows)).repeat_interleave(ahead))
            many.query_N = many.query_N + torch.arange(ahead).repeat(len(rows))
        x_QCHW = self._propose(many)
        output_QC = self.logits_fn(x_QCHW)
        self.look_once(output_QC, many.label_N)
        loss_Q = self.climb(output_QC, many.label_N)
        broken_Q = misclassified(self.logits_fn, x_QCHW, output_QC, many.label_N, self.targeted)
        # a misclassified point wins over any other (Algorithm 1), whatever the loss says
        better_Q = (broken_Q & ~many.broken_N) | ((broken_Q == many.broken_N) & (loss_Q > many.loss_N))
        better_AK = better_Q.view(-1, ahead)
        kept_A = better_AK.any(1)
        last_A = torch.where(kept_A, better_AK.int().argmax(1), ahead - 1)  # the first that is kept, else the last
        self.bad = self.bad | ~loss_Q.view(-1, ahead).where(_up_to(last_A, ahead), 0).sum().isfinite()
        at_A = torch.arange(len(rows), device=last_A.device) * ahead + last_A
        rows.x_NCHW = torch.where(kept_A[:, None, None, None], x_QCHW[at_A], rows.x_NCHW)
        rows.loss_N = torch.where(kept_A, loss_Q[at_A], rows.loss_N)
        rows.broken_N = rows.broken_N | broken_Q[at_A]
        rows.query_N = rows.query_N + last_A.cpu() + 1
        rows.eager_N = torch.where(kept_A.cpu(), rows.eager_N // 2, rows.eager_N * 2).clamp(1, CHUNK)
        over_A = (rows.query_N == self.queries) | (rows.query_N == 0)
        if self.stop_when_broken:
            over_A = over_A | rows.broken_N.cpu()
        return self._finish_run(rows, over_A) if bool(over_A.any()) else over_A

    def _ahead(self, rows: SquareRows) -> int:
        """How many queries of each row are asked at once: what fits, and no query whose numbers are not drawn yet."""
        fits = min(self.room // len(rows), int(rows.eager_N.min()))
        if fits < 2 or bool((rows.query_N < 1).any()):
            return 1
        return min(fits, int(torch.minimum(CHUNK - rows.query_N % CHUNK, self.queries - rows.query_N).min()))

    def _draw(self, rows: SquareRows) -> None:
        """Random numbers for the next chunk of queries, where one begins."""
        due_A = rows.query_N % CHUNK == 0
        if bool(due_A.any()):
            random = draw(self._of(rows, due_A), (CHUNK, self.squares.numbers), rows.x_NCHW.device)
            rows.random_NTR = _put(rows.random_NTR, due_A, random)

    def _propose(self, rows: SquareRows) -> Tensor:
        """What each row asks about next: the start, the first point of a run, or the best point with another square."""
        step_N, device = rows.query_N.clamp(min=0), rows.x_NCHW.device
        first_A = rows.query_N == 0
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

    def end(self, rows: SquareRows) -> None:
        self.take(rows, rows.best_NCHW)


def _up_to(last_A: Tensor, ahead: int) -> Tensor:
    """`AxK`: which of the queries count."""
    return torch.arange(ahead, device=last_A.device) <= last_A[:, None]


def _put(all_A: Tensor, chosen_A: Tensor, part: Tensor) -> Tensor:
    return all_A.index_copy(0, chosen_A.nonzero()[:, 0].to(all_A.device), part)
