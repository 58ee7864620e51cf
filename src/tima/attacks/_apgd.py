"""The search of Auto-PGD, Croce & Hein 2020, arXiv 2003.01690, Algorithm 1. What people call is in `apgd.py`.

Where the paper and its authors' code differ (checkpoints away from 100 steps; condition 1 also at equality), this follows the
code, which published numbers come from. One thing follows the paper: the first window counts the step away from the start.

Shapes: `A` runs in the batch, `N` rows of its state, `C` channels or classes, `H, W` pixels, `K` targets an image.
"""

import itertools
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from tima.attacks._search import Search, SearchRows
from tima.attacks._targets import target_of
from tima.attacks.losses import LossFn, TargetedLossFn, margin

MOMENTUM = 0.75  # alpha: the share of the new step; the rest repeats the last movement
RHO = 0.75  # step size too long: at most this share of the steps since the last checkpoint raised the loss


def checkpoints(steps: int) -> list[int]:
    """Numbers of steps after which the step size may halve: the first 22 % of all steps, then windows that shrink by 3 %
    down to 6 %. For 100 steps 22, 41, 57, 70, 80, 87, 93, 99."""
    window, shrink, smallest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, at = [], window
    while at <= steps:
        found.append(at)
        window = max(window - shrink, smallest)
        at += window
    return found


@dataclass
class ApgdRows(SearchRows):
    """Auto-PGD's memory of each run."""

    eps_N: Tensor
    size_N: Tensor  # length of a step
    before_NCHW: Tensor  # the iterate before
    loss_N: Tensor  # its loss
    top_NCHW: Tensor  # the run's best iterate, its loss and its gradient
    top_loss_N: Tensor
    top_gradient_NCHW: Tensor
    rises_N: Tensor  # steps since the last checkpoint that raised the loss
    halved_N: Tensor  # did the last checkpoint halve?
    checked_loss_N: Tensor  # the run's best loss at the last checkpoint


R = TypeVar("R", bound=ApgdRows)


@dataclass(kw_only=True)
class _Apgd(Search[R]):
    """One step and the checkpoints. What is climbed differs below."""

    def __post_init__(self) -> None:
        at = [0, *checkpoints(self.steps)]
        self.window = torch.zeros(self.steps + 1, dtype=torch.long)  # steps since the checkpoint before; 0: none here
        self.window[at[1:]] = torch.tensor([b - a for a, b in itertools.pairwise(at)], dtype=torch.long)

    def fresh(self, row_N: Tensor, run_N: Tensor) -> dict[str, Any]:
        """The fields of `ApgdRows`; the first step fills what is 0 here."""
        fields, eps_N = super().fresh(row_N, run_N), self.starts.eps_N[row_N].float()
        images = dict.fromkeys(("before_NCHW", "top_NCHW", "top_gradient_NCHW"), torch.zeros_like(fields["x_NCHW"]))
        numbers = dict.fromkeys(("size_N", "loss_N", "top_loss_N", "checked_loss_N", "rises_N"), torch.zeros_like(eps_N))
        return {**fields, **images, **numbers, "eps_N": eps_N, "halved_N": torch.zeros_like(eps_N, dtype=torch.bool)}

    def move(self, rows: R, loss_A: Tensor, gradient_ACHW: Tensor) -> None:
        first_A = (rows.step_N == 0).to(loss_A.device)
        self._remember(rows, first_A, loss_A, gradient_ACHW)
        window_A = self.window[rows.step_N]
        x_ACHW = rows.x_NCHW
        if bool(window_A.any()):
            halve_A111 = self._check(rows, window_A.to(loss_A.device))[:, None, None, None]
            x_ACHW = torch.where(halve_A111, rows.top_NCHW, x_ACHW)
            gradient_ACHW = torch.where(halve_A111, rows.top_gradient_NCHW, gradient_ACHW)
        # z = P(x + eta s(gradient)); x' = P(x + alpha (z - x) + (1 - alpha) (x - before)); the first step has no before
        z_ACHW = rows.ball.step_(gradient_ACHW, x_ACHW, rows.size_N)
        share_A111 = torch.where(first_A, 1.0, MOMENTUM)[:, None, None, None]
        step_ACHW = torch.lerp(x_ACHW - rows.before_NCHW, z_ACHW - x_ACHW, share_A111)
        rows.before_NCHW, rows.x_NCHW = x_ACHW, rows.ball.project_(x_ACHW + step_ACHW)

    def _remember(self, rows: R, first_A: Tensor, loss_A: Tensor, gradient_ACHW: Tensor) -> None:
        """Take the new iterate into account; the first of a run has none before it."""
        rises_A = rows.rises_N + (loss_A > rows.loss_N)
        better_A = first_A | (loss_A > rows.top_loss_N)
        better_A111 = better_A[:, None, None, None]
        rows.top_NCHW = torch.where(better_A111, rows.x_NCHW, rows.top_NCHW)
        rows.top_gradient_NCHW = torch.where(better_A111, gradient_ACHW, rows.top_gradient_NCHW)
        rows.top_loss_N = torch.where(better_A, loss_A, rows.top_loss_N)
        rows.loss_N, rows.rises_N = loss_A, rises_A.masked_fill(first_A, 0)
        rows.halved_N = rows.halved_N | first_A  # so that condition 2 waits for the second checkpoint
        rows.checked_loss_N = torch.where(first_A, loss_A, rows.checked_loss_N)
        rows.size_N = torch.where(first_A, 2 * rows.eps_N, rows.size_N)

    def _check(self, rows: R, window_A: Tensor) -> Tensor:
        """At a checkpoint (`window` above 0), halve the step size of runs that got stuck. Returns whose was halved."""
        due_A = window_A > 0
        condition1_A = rows.rises_N <= RHO * window_A
        condition2_A = ~rows.halved_N & (rows.top_loss_N <= rows.checked_loss_N)
        halve_A = due_A & (condition1_A | condition2_A)
        rows.size_N = torch.where(halve_A, rows.size_N / 2, rows.size_N)
        rows.halved_N = torch.where(due_A, halve_A, rows.halved_N)
        rows.checked_loss_N = torch.where(due_A, rows.top_loss_N, rows.checked_loss_N)
        rows.rises_N = rows.rises_N.masked_fill(due_A, 0)
        return halve_A


@dataclass(kw_only=True)
class Apgd(_Apgd[ApgdRows]):
    """Climbs one loss."""

    climb: LossFn

    def begin_runs(self, row_N: Tensor, run_N: Tensor) -> ApgdRows:
        return ApgdRows(**self.fresh(row_N, run_N))

    def loss(self, output_AC: Tensor, rows: ApgdRows) -> Tensor:
        return self.climb(output_AC, rows.label_N)


@dataclass
class TargetedRows(ApgdRows):
    """The class that each run leads to."""

    target_N: Tensor


@dataclass(kw_only=True)
class TargetedApgd(_Apgd[TargetedRows]):
    """Runs towards each of several wrong classes, `restarts` each."""

    climb: TargetedLossFn
    class_NK: Tensor
    restarts: int

    def begin_runs(self, row_N: Tensor, run_N: Tensor) -> TargetedRows:
        target_N = target_of(self.class_NK[row_N], run_N, self.starts.extra, self.restarts)
        return TargetedRows(**self.fresh(row_N, run_N), target_N=target_N)

    def loss(self, output_AC: Tensor, rows: TargetedRows) -> Tensor:
        return self.climb(output_AC, rows.label_N, rows.target_N)

    def score(self, output_AC: Tensor, loss_A: Tensor, rows: TargetedRows) -> Tensor:
        return margin(output_AC, rows.label_N)  # the losses of two targets do not compare
