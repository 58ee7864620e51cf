"""Random points at the same eps: what no attack should lose against, and no defence should fear.

Shapes: `B` images, `C` channels or classes, `H, W` pixels; `A` the tries in the batch. Cost: `tries` forwards an image.
"""

from typing import Any

from torch import Tensor

from tima.attacks._check import check_attack, check_class_numbers, eps_tensor
from tima.attacks._generators import one_each
from tima.attacks._search import Search, SearchRows
from tima.attacks._starts import Starts
from tima.attacks.losses import LogitsFn, margin
from tima.attacks.projections import Generators


def noise(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    tries: int = 100,
    targeted: bool = False,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = False,
    generator: Generators = None,
    batch_size: int | None = None,
) -> Tensor:
    """The point of largest margin among `tries` random ones, and the start where one is given.

    Args and errors are those of `pgd`. Points are uniform in the ball for `l_inf`, on its surface for `l_2`.
        keep_best: the best of many is what this attack is, so False changes nothing.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1].
    """
    words: dict[str, Any] = {"logits_fn": logits_fn, "batch_size": batch_size, "generator": generator}
    check_attack(image_BCHW, label_B, start_BCHW, tries, None, 1, True, True, **words)
    check_class_numbers(label_B)
    image_BCHW = image_BCHW.detach().float()
    eps_B = eps_tensor(eps, image_BCHW, norm)
    starts = Starts(norm, image_BCHW, eps_B, start_BCHW, True, one_each(generator, len(image_BCHW)))
    return Tries(
        logits_fn=logits_fn,
        starts=starts,
        label_N=label_B,
        steps=0,
        runs=starts.extra + tries,
        targeted=targeted,
        keep_best=True,
        stop_when_broken=stop_when_broken,
    ).search(batch_size)


class Tries(Search[SearchRows]):
    """Runs of no step: each is the point where it begins."""

    def begin_runs(self, row_N: Tensor, run_N: Tensor) -> SearchRows:
        return SearchRows(**self.fresh(row_N, run_N))

    def loss(self, output_AC: Tensor, rows: SearchRows) -> Tensor:
        return margin(output_AC, rows.label_N) * (-1 if self.targeted else 1)

    def move(self, rows: SearchRows, loss_A: Tensor, gradient_ACHW: Tensor) -> None:
        raise AssertionError("a run of no step does not move")
