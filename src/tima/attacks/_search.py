"""What the gradient attacks share: runs from several points, what the model says of each iterate, what is kept, when it ends.

An attack says how one step is made (`move`); everything else is here. Shapes: `N` images in all, `A` runs in the batch,
`C` channels or classes, `H, W` pixels. Every run has counters of its own, so a batch may hold runs that are at different steps
(see `_runs.py`). The counters live on the CPU: reading them never makes a GPU wait.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from tima.attacks._broken import misclassified
from tima.attacks._check import check_reaches_pixels
from tima.attacks._runs import RunRows, RunsSearch
from tima.attacks.projections import Ball


@dataclass
class SearchRows(RunRows):
    """Where each run in the batch stands. Attacks add what their steps need."""

    step_N: Tensor  # steps made, on the CPU
    label_N: Tensor
    ball: Ball
    x_NCHW: Tensor
    best_NCHW: Tensor
    best_score_N: Tensor
    broken_N: Tensor  # on the CPU


R = TypeVar("R", bound=SearchRows)


@dataclass(kw_only=True)
class Search(RunsSearch[R]):
    """Runs of `steps` steps for every image.

    Attributes:
        steps: of one run.
        targeted: broken means that `label_N` is reached.
        keep_best: keep the iterate of highest score over all steps and runs; else the last of the last run. A misclassified one
            wins over any other where `stop_when_broken` says that it ends the image's search.
        eot_iter: forward passes a step, whose mean counts (Athalye et al. 2018, arXiv 1707.07397), for models that draw
            random numbers.
    """

    steps: int
    targeted: bool
    keep_best: bool
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

    def fresh(self, row_N: Tensor, run_N: Tensor) -> dict[str, Any]:
        """The fields of `SearchRows` at the beginning."""
        ball, image_ACHW = self.starts.ball(row_N), self.starts.image(row_N)
        return {
            "row_N": row_N,
            "run_N": run_N,
            "step_N": torch.zeros_like(run_N),
            "label_N": self.label_N[row_N],
            "ball": ball,
            "x_NCHW": self.points(row_N, run_N, ball),
            "best_NCHW": image_ACHW,
            "best_score_N": torch.full((len(row_N),), -torch.inf, device=image_ACHW.device),
            "broken_N": torch.zeros_like(run_N, dtype=torch.bool),
        }

    def advance(self, rows: R) -> Tensor:
        """One forward, one backward and one step of every row. Returns, on the CPU, whose run has ended."""
        asks_last = self.keep_best or self.stop_when_broken  # else nobody asks how good the last iterate is
        ended_A = rows.step_N == (self.steps if asks_last else self.steps - 1)
        still = asks_last and bool(ended_A.all())
        x_ACHW = rows.x_NCHW
        output_AC, loss_A, gradient_ACHW = self._evaluate(rows, gradients=not still)
        if self.keep_best:
            score_A = self.score(output_AC, loss_A, rows)
            self._keep(rows, score_A > rows.best_score_N, x_ACHW)
            rows.best_score_N = torch.maximum(rows.best_score_N, score_A)
        if self.stop_when_broken:
            broken_A = misclassified(self.logits_fn, x_ACHW, output_AC, rows.label_N, self.targeted)
            rows.broken_N = broken_A.cpu()
            if bool(rows.broken_N.any()):
                self._keep(rows, broken_A, x_ACHW)
                ended_A = ended_A | self.needless(rows, rows.broken_N)
        if gradient_ACHW is not None and not bool(ended_A.all() if asks_last else False):
            self.move(rows, loss_A, gradient_ACHW)
        if not self.keep_best and bool(ended_A.any()):
            self._keep(rows, (ended_A & ~rows.broken_N).to(x_ACHW.device), x_ACHW if asks_last else rows.x_NCHW)
        rows.step_N = rows.step_N + 1
        return ended_A

    def verdict(self, rows: R) -> tuple[Tensor, Tensor, Tensor]:
        return rows.best_NCHW, rows.best_score_N if self.keep_best else rows.run_N, rows.broken_N

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
