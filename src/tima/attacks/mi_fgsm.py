"""Momentum iterative FGSM, Dong et al. 2018, arXiv 1710.06081: steps along a running sum of gradients, made to transfer.

Shapes: `B` images, `C` channels or classes, `H, W` pixels; `A` the runs in the batch, `N` rows of its state.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tima.attacks._check import check_attack, check_numbers, eps_tensor
from tima.attacks._search import Search, SearchRows
from tima.attacks._starts import Starts
from tima.attacks.losses import LogitsFn, LossFn, check_can_break, find_loss
from tima.attacks.projections import Generators
from tima.errors import RecipeError


def mi_fgsm(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    loss: str | LossFn = "ce",
    targeted: bool = False,
    random_start: bool = False,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = False,
    generator: Generators = None,
    batch_size: int | None = None,
) -> Tensor:
    """Algorithm 1 of the paper (`l_inf`) and its section 3.3 (`l_2`), from the clean image.

    Args and errors are those of `pgd`, with these differences:
        step_size: by default `eps / steps`.
        decay: mu, the share of the old direction that stays; 0 is iterative FGSM, 1 the paper's choice.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1].
    """
    check_attack(
        *(image_BCHW, label_B, start_BCHW, steps, step_size, 1, random_start, True),
        batch_size=batch_size,
        generator=generator,
        logits_fn=logits_fn,
    )
    check_numbers(decay=decay)
    if not decay >= 0:
        raise RecipeError(f"decay {decay} is below 0: steps would run against the gradients before.")
    if stop_when_broken:
        check_can_break(loss)
    image_BCHW = image_BCHW.detach().float()
    eps_B = eps_tensor(eps, image_BCHW, norm)
    starts = Starts(norm, image_BCHW, eps_B, start_BCHW, random_start, generator)
    return _MiFgsm(
        logits_fn=logits_fn,
        starts=starts,
        label_N=label_B,
        steps=steps,
        runs=starts.extra + 1,
        targeted=targeted,
        keep_best=keep_best,
        stop_when_broken=stop_when_broken,
        climb=find_loss(loss, targeted=targeted),
        size_N=(eps_B / steps if step_size is None else torch.full_like(eps_B, step_size)).float(),
        decay=decay,
    ).search(batch_size)


@dataclass
class _Rows(SearchRows):
    size_N: Tensor
    direction_NCHW: Tensor


@dataclass(kw_only=True)
class _MiFgsm(Search[_Rows]):
    climb: LossFn
    size_N: Tensor
    decay: float

    def begin_runs(self, row_N: Tensor, run_N: Tensor) -> _Rows:
        fields = self.fresh(row_N, run_N)
        return _Rows(**fields, size_N=self.size_N[row_N], direction_NCHW=torch.zeros_like(fields["x_NCHW"]))

    def loss(self, output_AC: Tensor, rows: _Rows) -> Tensor:
        return self.climb(output_AC, rows.label_N)

    def move(self, rows: _Rows, loss_A: Tensor, gradient_ACHW: Tensor) -> None:
        # eq. 6 and 7: g' = mu g + d / ||d||_1, x' = x + size sign(g'). The length is the mean of the values, not their sum:
        # the sum differs by one factor for all steps, which the sign removes, and underflows sooner.
        length_A111 = gradient_ACHW.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-20)
        rows.direction_NCHW = self.decay * rows.direction_NCHW + gradient_ACHW / length_A111
        rows.x_NCHW = rows.ball.step_(rows.direction_NCHW, rows.x_NCHW, rows.size_N)
