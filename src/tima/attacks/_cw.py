"""The search of Carlini & Wagner 2017, arXiv 1608.04644, section VI. What people call is in `cw.py`.

Shapes: `A` images in the batch, `N` rows of its state, `C` channels or classes, `H, W` pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tima.attacks._check import check_reaches_pixels
from tima.attacks._closest import ClosestRows, consider, fresh, settle
from tima.attacks._pooled import PooledSearch
from tima.attacks.losses import margin

ADAM = 0.9, 0.999, 1e-8  # beta 1, beta 2, epsilon (Kingma & Ba 2015, arXiv 1412.6980)
EDGE = 1 - 1e-6  # tanh reaches -1 and 1 nowhere
NO_BOUND = 1e10  # c has no upper bound yet


@dataclass
class CwRows(ClosestRows):
    """Adam's state and the bisection of each image."""

    w_NCHW: Tensor
    first_NCHW: Tensor  # Adam's moments
    second_NCHW: Tensor
    c_N: Tensor
    low_N: Tensor
    high_N: Tensor
    success_N: Tensor  # did this run find a misclassified point?
    checked_N: Tensor  # objective when progress was looked at last


@dataclass(kw_only=True)
class CwSearch(PooledSearch[CwRows]):
    """Runs of Adam with one `c` each. Where a start is given, run 0 begins there and leaves the bisection as it is."""

    steps: int
    step_size: float
    runs: int
    c_init: float
    confidence: float
    targeted: bool
    stop_when_broken: bool

    def begin(self, row_N: Tensor) -> CwRows:
        ball = self.starts.ball(row_N)
        fields = fresh(row_N, self.label_N, self.starts.image_NCHW, ball)
        w_ACHW, c_A = _unbounded(self.starts.point(0, row_N, ball)), torch.full_like(fields["distance_N"], self.c_init)
        return CwRows(
            **fields,
            w_NCHW=w_ACHW,
            first_NCHW=torch.zeros_like(w_ACHW),
            second_NCHW=torch.zeros_like(w_ACHW),
            c_N=c_A,
            low_N=torch.zeros_like(c_A),
            high_N=torch.full_like(c_A, NO_BOUND),
            success_N=torch.zeros_like(c_A, dtype=torch.bool),
            checked_N=torch.full_like(c_A, torch.inf),
        )

    def advance(self, rows: CwRows) -> Tensor:
        """One step of Adam for every row. Returns, on the CPU, whose search has ended."""
        with torch.enable_grad():
            w_ACHW = rows.w_NCHW.detach().requires_grad_()
            x_ACHW = (torch.tanh(w_ACHW) + 1) / 2
            output_AC = self.logits_fn(x_ACHW)
            self.look_once(output_AC, rows.label_N)
            # above 0 while the label wins (or, targeted, while it does not)
            ahead_A = margin(output_AC, rows.label_N) * (1 if self.targeted else -1)
            check_reaches_pixels(ahead_A)
            penalty_A = ahead_A.clamp(min=-self.confidence)
            objective_A = (x_ACHW - rows.image_NCHW).square().sum((1, 2, 3)) + rows.c_N * penalty_A
            (gradient_ACHW,) = torch.autograd.grad(objective_A.sum(), w_ACHW)
        self.bad = self.bad | ~(objective_A.detach().sum() + gradient_ACHW.sum()).isfinite()
        adversarial_A = consider(self.logits_fn, rows, x_ACHW, output_AC, self.targeted)
        rows.success_N = rows.success_N | (adversarial_A & (ahead_A.detach() <= -self.confidence))
        self._adam(rows, gradient_ACHW)
        over_A = (rows.step_N == self.steps) | self._stuck(rows, objective_A.detach())
        if self.stop_when_broken:
            over_A = over_A | (rows.score_N > 0).cpu()
        return self._finish_run(rows, over_A) if bool(over_A.any()) else over_A

    def _adam(self, rows: CwRows, gradient_ACHW: Tensor) -> None:
        beta1, beta2, tiny = ADAM
        rows.step_N = rows.step_N + 1
        step_A111 = rows.step_N.to(gradient_ACHW.device)[:, None, None, None]
        rows.first_NCHW = torch.lerp(gradient_ACHW, rows.first_NCHW, beta1)
        rows.second_NCHW = torch.lerp(gradient_ACHW.square(), rows.second_NCHW, beta2)
        first_ACHW, second_ACHW = rows.first_NCHW / (1 - beta1**step_A111), rows.second_NCHW / (1 - beta2**step_A111)
        rows.w_NCHW = rows.w_NCHW - self.step_size * first_ACHW / (second_ACHW.sqrt() + tiny)

    def _stuck(self, rows: CwRows, objective_A: Tensor) -> Tensor:
        """Whose objective has not fallen by 0.01 % since it was looked at a tenth of the steps ago (the authors' code)."""
        looked_A = (rows.step_N - 1) % max(self.steps // 10, 1) == 0
        if not bool(looked_A.any()):
            return looked_A
        looked = looked_A.to(objective_A.device)
        stuck_A = looked & (objective_A > 0.9999 * rows.checked_N)
        rows.checked_N = torch.where(looked, objective_A, rows.checked_N)
        return stuck_A.cpu()

    def _finish_run(self, rows: CwRows, over_A: Tensor) -> Tensor:
        """Rows whose run is over take the next `c` and begin again in the clean image. Returns whose search has ended."""
        over, counts = over_A.to(rows.c_N.device), (over_A & (rows.run_N >= self.starts.extra)).to(rows.c_N.device)
        rows.high_N = torch.where(counts & rows.success_N, torch.minimum(rows.high_N, rows.c_N), rows.high_N)
        rows.low_N = torch.where(counts & ~rows.success_N, torch.maximum(rows.low_N, rows.c_N), rows.low_N)
        next_A = torch.where(rows.high_N < NO_BOUND, (rows.low_N + rows.high_N) / 2, rows.c_N * 10)
        rows.c_N = torch.where(counts, next_A, rows.c_N)
        over_A111 = over[:, None, None, None]
        rows.w_NCHW = torch.where(over_A111, _unbounded(rows.image_NCHW), rows.w_NCHW)
        rows.first_NCHW = rows.first_NCHW.masked_fill(over_A111, 0)
        rows.second_NCHW = rows.second_NCHW.masked_fill(over_A111, 0)
        rows.success_N, rows.checked_N = rows.success_N & ~over, rows.checked_N.masked_fill(over, torch.inf)
        rows.run_N, rows.step_N = rows.run_N + over_A, rows.step_N.masked_fill(over_A, 0)
        ended_A = rows.run_N == self.runs
        return ended_A | (rows.score_N > 0).cpu() if self.stop_when_broken else ended_A

    def end(self, rows: CwRows) -> None:
        self.take(rows, settle(self.logits_fn, rows, self.targeted))


def _unbounded(x_ACHW: Tensor) -> Tensor:
    """The `w` whose `(tanh(w) + 1) / 2` is `x`."""
    return torch.atanh((2 * x_ACHW - 1) * EDGE)
