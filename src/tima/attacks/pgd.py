"""Projected gradient descent, Madry et al. 2018, arXiv 1706.06083: the attack that everything else is measured against.

Shapes: `B` images, `C` channels or classes, `H, W` pixels; `A` the images still searched.
Cost: one forward and one backward a step, and one forward at the end of a run when the best iterate is wanted.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tima.attacks._check import check_attack, check_reaches_pixels, eps_tensor, not_finite
from tima.attacks.losses import LossFn, find_loss
from tima.attacks.projections import Ball, Generators, make_ball

LogitsFn = Callable[[Tensor], Tensor]


def pgd(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    loss: str | LossFn = "ce",
    targeted: bool = False,
    random_start: bool = True,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = False,
    generator: Generators = None,
) -> Tensor:
    """Search the ball around each image for the point of highest loss.

    Args:
        logits_fn: pixels in [0, 1] to logits, or to whatever `loss` understands. Only the pixels get gradients; the
            weights' `.grad` is never touched, whatever their `requires_grad`.
        image_BCHW: clean images, float in [0, 1].
        label_B: true classes (classes to reach when `targeted`), or what the loss takes, first dimension `B`.
        eps: radius in [0, 1] pixel units, one for all or one an image. For `l_2` a length, which may exceed 1.
        norm: `l_inf` or `l_2`.
        steps: gradient steps a run.
        step_size: length of a step; by default `2.5 * eps / steps` (Madry et al., section 5.2), at most eps.
        restarts: runs from random points. More is never weaker, since the best over all runs is kept.
        loss: name in `losses.LOSSES`, or a function; larger = closer to success.
        targeted: the loss is lowered towards `label_B` and "broken" means that this class is reached.
        random_start: start in a random point of the ball; else in the clean image.
        start_BCHW: a point for one extra run, which comes first; it is projected into the ball. All other runs follow as
            without it, so that a start never makes the attack weaker.
        keep_best: return, for each image, the iterate of highest loss over all steps, runs and starts; else the last.
        stop_when_broken: a misclassified iterate wins over any other and its image leaves the batch at once.
        generator: one for the batch, or a sequence with one an image, which makes each image's random numbers
            independent of its neighbours and of the batch size.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1].

    Raises:
        EpsError: eps not above 0, or not below 1 under `l_inf`.
        DataError: integer images, values outside [0, 1], shapes that do not fit.
        ModelError: NaN or infinite losses or gradients.
        RecipeError: parameters that cannot be meant.
    """
    check_attack(image_BCHW, label_B, start_BCHW, steps, step_size, restarts, random_start, keep_best or stop_when_broken)
    image_BCHW = image_BCHW.detach().float()
    eps_B = eps_tensor(eps, image_BCHW, norm)
    if len(image_BCHW) == 0:
        return image_BCHW
    search = _Search(find_loss(loss, targeted=targeted), targeted, keep_best, stop_when_broken, image_BCHW, label_B)
    ball = make_ball(norm, image_BCHW, eps_B)
    size_B = (eps_B * min(2.5 / steps, 1) if step_size is None else torch.full_like(eps_B, step_size)).float()
    for x_ACHW in _starts(search, ball, image_BCHW, start_BCHW, restarts, random_start, generator):
        _run(logits_fn, search, ball.select(search.active_A) if search.shrunk else ball, x_ACHW, size_B, steps)
        if len(search.active_A) == 0:
            break
    return search.best_BCHW


def _starts(
    search: "_Search",
    ball: Ball,
    image_BCHW: Tensor,
    start_BCHW: Tensor | None,
    restarts: int,
    random_start: bool,
    generator: Generators,
) -> Iterator[Tensor]:
    """Where each run begins, for the images that are still searched when it does."""
    if start_BCHW is not None:
        yield ball.project_(start_BCHW.detach().float().clone())
    for _ in range(restarts):
        if not random_start:
            yield image_BCHW[search.active_A]
        elif isinstance(generator, Sequence):
            mine: Generators = [generator[i] for i in search.active_A.tolist()]
            yield (ball.select(search.active_A) if search.shrunk else ball).random(mine)
        else:  # drawn for the whole batch, so that a shared stream does not depend on what is broken already
            yield ball.random(generator)[search.active_A]


class _Search:
    """The best point of each image so far, and which images are still searched."""

    def __init__(
        self, loss: LossFn, targeted: bool, keep_best: bool, stop_when_broken: bool, image_BCHW: Tensor, label_B: Tensor
    ) -> None:
        self.loss, self.targeted, self.keep_best, self.stop_when_broken = loss, targeted, keep_best, stop_when_broken
        self.label_B = label_B.detach().to(image_BCHW.device)
        self.best_BCHW = image_BCHW.clone()
        self.best_loss_B = torch.full((len(image_BCHW),), -torch.inf, device=image_BCHW.device)
        self.active_A = torch.arange(len(image_BCHW), device=image_BCHW.device)

    @property
    def shrunk(self) -> bool:
        return len(self.active_A) < len(self.best_BCHW)

    def record(self, x_ACHW: Tensor, loss_A: Tensor | None) -> None:
        """Keep the iterate where its loss is higher than the best; everywhere when there is no loss to compare."""
        better_A = None if loss_A is None else loss_A > self.best_loss_B[self.active_A]
        if not self.shrunk:
            if better_A is None or loss_A is None:
                self.best_BCHW = x_ACHW
            else:
                self.best_BCHW = torch.where(better_A[:, None, None, None], x_ACHW, self.best_BCHW)
                self.best_loss_B = torch.where(better_A, loss_A, self.best_loss_B)
            return
        index, chosen = (self.active_A, x_ACHW) if better_A is None else (self.active_A[better_A], x_ACHW[better_A])
        self.best_BCHW[index] = chosen
        if better_A is not None and loss_A is not None:
            self.best_loss_B[index] = loss_A[better_A]

    def broken(self, logits_fn: LogitsFn, x_ACHW: Tensor, output_AC: Tensor, label_A: Tensor) -> Tensor:
        """Which images are misclassified. Under autocast only what fp32 confirms counts."""
        broken_A = _misclassified(output_AC, label_A, self.targeted)
        device = x_ACHW.device.type
        if torch.is_autocast_enabled(device) and bool(broken_A.any()):
            with torch.no_grad(), torch.autocast(device, enabled=False):
                again = _misclassified(logits_fn(x_ACHW[broken_A]), label_A[broken_A], self.targeted)
            broken_A = broken_A.masked_scatter(broken_A, again)
        return broken_A


def _misclassified(output_AC: Tensor, label_A: Tensor, targeted: bool) -> Tensor:
    class_A = label_A.argmax(1) if label_A.ndim > 1 else label_A
    return (output_AC.detach().argmax(1) == class_A) == targeted


def _run(logits_fn: LogitsFn, search: _Search, ball: Ball, x_ACHW: Tensor, size_B: Tensor, steps: int) -> None:
    """One run of `steps` steps from `x`. Reads and updates `search`."""
    size_A, label_A = size_B[search.active_A], search.label_B[search.active_A]
    bad = torch.zeros((), dtype=torch.bool, device=x_ACHW.device)  # looked at once a run: asking the GPU every step stalls it
    for step in range(steps + 1):
        last = step == steps
        if last and not (search.keep_best or search.stop_when_broken):
            break  # nobody asks how good the last iterate is
        with torch.set_grad_enabled(not last):
            x_ACHW.requires_grad_(not last)
            output = logits_fn(x_ACHW)
            loss_A = search.loss(output, label_A)
        bad |= ~loss_A.detach().isfinite().all()
        keep_A = None
        if search.stop_when_broken:
            broken_A = search.broken(logits_fn, x_ACHW.detach(), output, label_A)
            if bool(broken_A.any()):
                not_finite(bad)
                gone_A = search.active_A[broken_A]
                search.best_BCHW[gone_A] = x_ACHW.detach()[broken_A]
                keep_A = ~broken_A
        if not last and (keep_A is None or bool(keep_A.any())):
            check_reaches_pixels(loss_A)
            # of the sum, never the mean: a mean shrinks gradients with the batch until they underflow
            (gradient_ACHW,) = torch.autograd.grad(loss_A, x_ACHW, torch.ones_like(loss_A))
            bad |= ~gradient_ACHW.sum().isfinite()  # sign(NaN) is 0: the attack would stand still and look weak
        del output
        x_ACHW, loss_A = x_ACHW.detach(), loss_A.detach()
        if keep_A is not None:
            search.active_A, ball, x_ACHW = search.active_A[keep_A], ball.select(keep_A), x_ACHW[keep_A]
            loss_A, size_A, label_A = loss_A[keep_A], size_A[keep_A], label_A[keep_A]
            if len(search.active_A) == 0:
                return
        if search.keep_best:
            search.record(x_ACHW, loss_A)
        if not last:
            x_ACHW = ball.step_(gradient_ACHW if keep_A is None else gradient_ACHW[keep_A], x_ACHW, size_A)
    not_finite(bad)
    if not search.keep_best:
        search.record(x_ACHW, None)
