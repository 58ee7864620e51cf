"""Projected gradient descent, Madry et al. 2018, arXiv 1706.06083: the attack that everything else is measured against.

Shapes: `B` images, `C` channels or classes, `H, W` pixels; `A` the runs in the batch, `N` rows of its state.
Cost: one forward and one backward a step, and one forward at the end of a run when the best iterate is wanted.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tima.attacks._check import check_attack, eps_tensor
from tima.attacks._search import Search, SearchRows
from tima.attacks._starts import Starts
from tima.attacks.losses import LogitsFn, LossFn, check_can_break, find_loss
from tima.attacks.projections import Generators


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
    batch_size: int | None = None,
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
        stop_when_broken: a misclassified iterate wins over any other and ends its run and the later ones of its image at
            once; what waits takes their place. Of several runs that break an image, the first one counts.
        generator: one for the batch, or a sequence with one an image, which makes each image's random numbers
            independent of its neighbours and of the batch size.
        batch_size: images in the batch at once, where few are left several runs of each; as many as there are by default.
            Changes memory and speed, not results.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1].

    Raises:
        EpsError: eps not above 0, or not below 1 under `l_inf`.
        DataError: integer images, values outside [0, 1], shapes that do not fit, classes that the model does not have.
        ModelError: NaN or infinite losses or gradients.
        RecipeError: parameters that cannot be meant.
    """
    compares = keep_best or stop_when_broken
    check_attack(
        *(image_BCHW, label_B, start_BCHW, steps, step_size, restarts, random_start, compares),
        batch_size=batch_size,
        generator=generator,
        logits_fn=logits_fn,
    )
    if stop_when_broken:
        check_can_break(loss)
    image_BCHW = image_BCHW.detach().float()
    eps_B = eps_tensor(eps, image_BCHW, norm)
    starts = Starts(norm, image_BCHW, eps_B, start_BCHW, random_start, generator)
    return PgdSearch(
        logits_fn=logits_fn,
        starts=starts,
        label_N=label_B,
        steps=steps,
        runs=starts.extra + restarts,
        targeted=targeted,
        keep_best=keep_best,
        stop_when_broken=stop_when_broken,
        climb=find_loss(loss, targeted=targeted),
        size_N=(eps_B * min(2.5 / steps, 1) if step_size is None else torch.full_like(eps_B, step_size)).float(),
    ).search(batch_size)


@dataclass
class PgdRows(SearchRows):
    """The state of each run, and the length of its steps."""

    size_N: Tensor


@dataclass(kw_only=True)
class PgdSearch(Search[PgdRows]):
    """Steps of one length along the gradient of one loss."""

    climb: LossFn
    size_N: Tensor

    def begin_runs(self, row_N: Tensor, run_N: Tensor) -> PgdRows:
        return PgdRows(**self.fresh(row_N, run_N), size_N=self.size_N[row_N])

    def loss(self, output_AC: Tensor, rows: PgdRows) -> Tensor:
        return self.climb(output_AC, rows.label_N)

    def move(self, rows: PgdRows, loss_A: Tensor, gradient_ACHW: Tensor) -> None:
        rows.x_NCHW = rows.ball.step_(gradient_ACHW, rows.x_NCHW, rows.size_N)
