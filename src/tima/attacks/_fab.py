"""The search of FAB, Croce & Hein 2020, arXiv 1907.02044, Algorithm 1. What people call is in `fab.py`.

Two things are added to the authors' code, both without cost: the point that the backward step leads to is looked at too,
since its logits are computed anyway; and a run may end as soon as its image is broken within eps.

Shapes: `A` runs in the batch, `N` rows of its state, `C` channels or classes, `H, W` pixels, `D` pixel values, `K` targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tima.attacks._check import check_reaches_pixels
from tima.attacks._closest import ClosestRows, consider, fresh, length, settle
from tima.attacks._fab_projection import to_hyperplane
from tima.attacks._runs import RunRows, RunsSearch
from tima.attacks._starts import Starts
from tima.attacks._targets import target_of
from tima.attacks.losses import margin, margin_targeted
from tima.attacks.projections import Ball


@dataclass
class FabRows(ClosestRows, RunRows):
    """Where each run stands, and the class that it leads to."""

    x_NCHW: Tensor
    target_N: Tensor


@dataclass(kw_only=True)
class FabSearch(RunsSearch[FabRows]):
    """Runs towards each of several targets, `restarts` each.

    Attributes:
        starts: the clean image, and where one is given the point of an extra run.
        randoms: where further restarts begin.
        way: `to_class`: to a wrong class of `class_NK`; `away`: to the nearest wrong class; `to_label`: to the label.
    """

    randoms: Starts
    class_NK: Tensor
    way: str
    norm: str
    steps: int
    restarts: int
    alpha_max: float
    eta: float
    beta: float

    def draws(self) -> list[torch.Generator] | None:
        return self.randoms.own

    def begin_runs(self, row_N: Tensor, run_N: Tensor) -> FabRows:
        ball = self.starts.ball(row_N)
        fields = {**fresh(row_N, self.label_N, self.starts.image_NCHW, ball), "run_N": run_N}
        target_N = target_of(self.class_NK[row_N], run_N, self.starts.extra, self.restarts)
        return FabRows(**fields, x_NCHW=self.points(row_N, run_N, ball), target_N=target_N)

    def point(self, run: int, row_N: Tensor, ball: Ball) -> Tensor:
        if run < self.starts.extra:
            return self.starts.point(run, row_N, ball)
        if (run - self.starts.extra) % self.restarts == 0:
            return self.starts.image_NCHW[row_N]
        return self.randoms.point(run, row_N, self.randoms.ball(row_N))

    def advance(self, rows: FabRows) -> Tensor:
        """One step of every row. Returns, on the CPU, whose run has ended."""
        targeted = self.way == "to_label"
        x_ACHW = rows.x_NCHW.detach().requires_grad_()
        with torch.enable_grad():
            output_AC = self.logits_fn(x_ACHW)
            self.look_once(output_AC, rows.label_N)
            gap_A, normal_ACHW = self._boundary(output_AC, x_ACHW, rows)
        self.bad = self.bad | ~(output_AC.detach().sum() + normal_ACHW.sum()).isfinite()
        consider(self.logits_fn, rows, x_ACHW, output_AC, targeted)
        x_ACHW = self._step(rows, gap_A, normal_ACHW)
        with torch.no_grad():
            adversarial_A = consider(self.logits_fn, rows, x_ACHW, self.logits_fn(x_ACHW), targeted)
        back_ACHW = torch.lerp(rows.image_NCHW, x_ACHW, self.beta)
        rows.x_NCHW = torch.where(adversarial_A[:, None, None, None], back_ACHW, x_ACHW)
        rows.step_N = rows.step_N + 1
        ended_A = rows.step_N == self.steps
        return ended_A | self.needless(rows, (rows.score_N > 0).cpu()) if self.stop_when_broken else ended_A

    def _boundary(self, output_AC: Tensor, x_ACHW: Tensor, rows: FabRows) -> tuple[Tensor, Tensor]:
        """The linearised decision boundary `gap = normal @ d`: what the difference of two logits lacks, and its gradient."""
        label_A = rows.label_N
        if self.way != "away":
            to_label = self.way == "to_label"
            difference_A = -margin(output_AC, label_A) if to_label else margin_targeted(output_AC, label_A, rows.target_N)
            check_reaches_pixels(difference_A)
            return -difference_A.detach(), torch.autograd.grad(difference_A.sum(), x_ACHW)[0]
        best: tuple[Tensor, Tensor, Tensor] | None = None
        for number in range(output_AC.shape[1]):  # one class at a time: all gradients at once would fill the memory
            class_A = torch.full_like(label_A, number)
            difference_A = margin_targeted(output_AC, label_A, class_A)
            check_reaches_pixels(difference_A)
            (normal_ACHW,) = torch.autograd.grad(difference_A.sum(), x_ACHW, retain_graph=True)
            gap_A = -difference_A.detach()
            dual_A = normal_ACHW.flatten(1).norm(p=1 if self.norm == "l_inf" else 2, dim=1)
            distance_A = (gap_A.abs() / (dual_A + 1e-12)).masked_fill(label_A == class_A, torch.inf)
            if best is not None:
                nearer_A = distance_A < best[0]
                gap_A = torch.where(nearer_A, gap_A, best[1])
                normal_ACHW = torch.where(nearer_A[:, None, None, None], normal_ACHW, best[2])
                distance_A = torch.minimum(distance_A, best[0])
            best = distance_A, gap_A, normal_ACHW
        assert best is not None
        return best[1], best[2]

    def _step(self, rows: FabRows, gap_A: Tensor, normal_ACHW: Tensor) -> Tensor:
        """`(1 - alpha) (x + eta d) + alpha (image + eta d')`: `d` and `d'` lead from the iterate and from the clean image to
        the boundary, and alpha is the larger the nearer the clean image lies to it compared with the iterate."""
        x_ACHW, image_ACHW = rows.x_NCHW, rows.image_NCHW
        w_AD, offset_AD = normal_ACHW.flatten(1), (x_ACHW - image_ACHW).flatten(1)
        far_A = gap_A + (w_AD * offset_AD).sum(1)  # what the clean image lacks, without cancellation between large sums
        both_2AD = torch.cat([x_ACHW.flatten(1), image_ACHW.flatten(1)]), torch.cat([w_AD, w_AD])
        d_2AD = to_hyperplane(*both_2AD, torch.cat([gap_A, far_A]), self.norm)
        d_ACHW, far_ACHW = (part.view_as(x_ACHW) for part in d_2AD.chunk(2))
        near_A, distance_A = (length(part, rows.ball).clamp(min=1e-8) for part in (d_ACHW, far_ACHW))
        alpha_A111 = (near_A / (near_A + distance_A)).clamp(max=self.alpha_max)[:, None, None, None]
        return torch.lerp(x_ACHW + self.eta * d_ACHW, image_ACHW + self.eta * far_ACHW, alpha_A111).clamp_(0, 1)

    def verdict(self, rows: FabRows) -> tuple[Tensor, Tensor, Tensor]:
        point_ACHW = settle(self.logits_fn, rows, self.way == "to_label")
        return point_ACHW, rows.score_N, (rows.score_N > 0) & self.stop_when_broken
