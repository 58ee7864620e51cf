"""What the gradient attacks share: runs from several points, what the model says of each iterate, what is kept, when it ends.

An attack says how one step is made (`move`); everything else is here. Shapes: `N` images in all, `A` images in the batch,
`C` channels or classes, `H, W` pixels. Every image has counters of its own, so a batch may hold images that are at different
steps of different runs (see `_pool.py`). The counters live on the CPU: reading them never makes a GPU wait.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from tima.attacks._broken import misclassified
from tima.attacks._check import check_reaches_pixels
from tima.attacks._pool import Rows
from tima.attacks._pooled import PooledSearch
from tima.attacks.projections import Ball


@dataclass
class SearchRows(Rows):
    """Where the search of each image in the batch stands. Attacks add what their steps need."""

    row_N: Tensor
    run_N: Tensor  # which run, on the CPU
    step_N: Tensor  # steps made in this run, on the CPU
    label_N: Tensor
    ball: Ball
    x_NCHW: Tensor
    best_NCHW: Tensor
    best_score_N: Tensor


R = TypeVar("R", bound=SearchRows)


@dataclass(kw_only=True)
class Search(PooledSearch[R]):
    """Runs of `steps` steps for every image.

    Attributes:
        steps: of one run.
        runs: for each image.
        targeted: broken means that `label_N` is reached.
        keep_best: keep the iterate of highest score over all steps and runs; else the last.
        stop_when_broken: a misclassified iterate wins over any other and ends the image's search.
        eot_iter: forward passes a step, whose mean counts (Athalye et al. 2018, arXiv 1707.07397), for models that draw
            random numbers.
    """

    steps: int
    runs: int
    targeted: bool
    keep_best: bool
    stop_when_broken: bool
    eot_iter: int = 1

    @abstractmethod
    def loss(self, output_AC: Tensor, rows: R) -> Tensor:
        """What is climbed, one value an image."""

    @abstractmethod
    def move(self, rows: R, loss_A: Tensor, gradient_ACHW: Tensor) -> None:
        """One step of every row, in place, from `rows.x_NCHW` with its loss and its gradient."""

    def score(self, output_AC: Tensor, loss_A: Tensor, rows: R) -> Tensor:
        """What iterates of all runs are compared by."""
        return loss_A

    def fresh(self, row_N: Tensor) -> dict[str, Any]:
        """The fields of `SearchRows` at the beginning."""
        ball, image_ACHW = self.starts.ball(row_N), self.starts.image(row_N)
        zero_A = torch.zeros(len(row_N), dtype=torch.long)
        return {
            "row_N": row_N,
            "run_N": zero_A,
            "step_N": zero_A,
            "label_N": self.label_N[row_N],
            "ball": ball,
            "x_NCHW": self.starts.point(0, row_N, ball),
            "best_NCHW": image_ACHW,
            "best_score_N": torch.full((len(row_N),), -torch.inf, device=image_ACHW.device),
        }

    def advance(self, rows: R) -> Tensor:
        """One forward, one backward and one step of every row. Returns, on the CPU, whose search has ended."""
        asks_last = self.keep_best or self.stop_when_broken  # else nobody asks how good the last iterate is
        over_A = rows.step_N == (self.steps if asks_last else self.steps - 1)
        still = asks_last and bool(over_A.all())
        x_ACHW = rows.x_NCHW
        output_AC, loss_A, gradient_ACHW = self._evaluate(rows, gradients=not still)
        if self.keep_best:
            score_A = self.score(output_AC, loss_A, rows)
            self._keep(rows, score_A > rows.best_score_N, x_ACHW)
            rows.best_score_N = torch.maximum(rows.best_score_N, score_A)
        ended_A = torch.zeros_like(over_A)
        if self.stop_when_broken:
            broken_A = misclassified(self.logits_fn, x_ACHW, output_AC, rows.label_N, self.targeted)
            ended_A = broken_A.cpu()
            if bool(ended_A.any()):
                self._keep(rows, broken_A, x_ACHW)
        if gradient_ACHW is not None and not bool(ended_A.all()):
            self.move(rows, loss_A, gradient_ACHW)
        rows.step_N = rows.step_N + 1
        if bool(over_A.any()):
            if not self.keep_best:
                self._keep(rows, over_A.to(x_ACHW.device), x_ACHW if asks_last else rows.x_NCHW)
            rows.run_N = rows.run_N + over_A
            ended_A = ended_A | (rows.run_N == self.runs)
            self.restart(rows, over_A & ~ended_A)
        return ended_A

    def restart(self, rows: R, again_A: Tensor) -> None:
        """The next run of the rows that `again_A` (on the CPU) marks begins."""
        for run in rows.run_N[again_A].unique().tolist():
            index = (again_A & (rows.run_N == run)).nonzero()[:, 0]
            whole = len(index) == len(rows)
            point = self.starts.point(run, rows.row_N[index], rows.ball if whole else rows.ball.select(index))
            rows.x_NCHW = point if whole else rows.x_NCHW.index_copy(0, index.to(point.device), point)
        rows.step_N = rows.step_N.masked_fill(again_A, 0)

    def outcome(self, rows: R) -> Tensor:
        return rows.best_NCHW

    def _keep(self, rows: R, chosen_A: Tensor, x_ACHW: Tensor) -> None:
        rows.best_NCHW = torch.where(chosen_A[:, None, None, None], x_ACHW, rows.best_NCHW)

    def _evaluate(self, rows: R, gradients: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits, losses and, where wanted, gradients at the rows' points: the mean over `eot_iter` passes."""
        total: list[Tensor] = []
        for _ in range(self.eot_iter):
            with torch.set_grad_enabled(gradients):
                x_ACHW = rows.x_NCHW.detach().requires_grad_(gradients)
                output_AC = self.logits_fn(x_ACHW)
                self.look_once(output_AC, rows.label_N)
                loss_A = self.loss(output_AC, rows)
            found = [output_AC.detach(), loss_A.detach()]
            if gradients:
                check_reaches_pixels(loss_A)
                # of the sum, never the mean: a mean shrinks gradients with the batch until they underflow
                found += torch.autograd.grad(loss_A, x_ACHW, torch.ones_like(loss_A))
            total = [before + now for before, now in zip(total, found, strict=True)] if total else found
        if self.eot_iter > 1:
            total = [value / self.eot_iter for value in total]
        # sign(NaN) is 0: the attack would stand still and look weak
        self.bad = self.bad | ~torch.stack([value.sum().isfinite() for value in total[1:]]).all()
        return total[0], total[1], total[2] if gradients else None
