"""Carlini & Wagner's l_2 attack, 2017, arXiv 1608.04644, section VI: the closest misclassified point, by Adam.

It minimises `|x - image|^2 + c * max(margin, -confidence)` over `x = (tanh(w) + 1) / 2`, which keeps x in [0, 1] by itself, and
looks for the smallest `c` that succeeds by bisection, for each image its own.
Shapes: `B` images, `C` channels or classes, `H, W` pixels. Cost: one forward and one backward a step; no random numbers.
"""

from typing import Any

from torch import Tensor

from tima.attacks._check import check_attack, check_class_numbers, check_numbers, eps_tensor
from tima.attacks._cw import CwSearch
from tima.attacks._starts import Starts
from tima.attacks.losses import LogitsFn
from tima.attacks.projections import Generators
from tima.errors import RecipeError


def cw(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_2",
    steps: int = 200,
    step_size: float = 0.01,
    searches: int = 9,
    c_init: float = 1e-3,
    confidence: float = 0.0,
    targeted: bool = False,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = False,
    generator: Generators = None,
    batch_size: int | None = None,
) -> Tensor:
    """Look for the misclassified point nearest to each image; what counts is whether it lies within eps.

    Args and errors are those of `pgd`, with these differences:
        norm: `l_2` only. Under `l_inf` the same loss is `pgd` or `apgd` with `loss="cw"`.
        eps: does not guide the search.
        steps: of one run, at most: a run whose objective has not fallen by 0.01 % over a tenth of them ends.
        step_size: Adam's, in units of `w`.
        searches: runs with one `c` each: ten times larger until one succeeds, then by bisection.
        c_init: the first `c`.
        confidence: how far beyond the boundary to go, in logits.
        start_BCHW: a point for one extra run, which comes first.
        keep_best: the closest point is what this attack is, so False changes nothing.
        stop_when_broken: the first misclassified point within eps ends the image's search.
        generator: not needed.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1]: the closest misclassified point; where none lies
        within eps, the point within eps of largest margin that was met, the closest misclassified one pulled in among them.
    """
    words: dict[str, Any] = {"logits_fn": logits_fn, "batch_size": batch_size, "generator": generator}
    check_attack(image_BCHW, label_B, start_BCHW, steps, step_size, searches, True, True, **words)
    check_class_numbers(label_B)
    if norm == "l_inf":
        raise RecipeError("cw looks for the smallest l_2 length; under l_inf take pgd or apgd with loss=cw, the same loss.")
    check_numbers(c_init=c_init, confidence=confidence)
    if not (c_init > 0 and confidence >= 0):
        raise RecipeError(f"cw takes c_init above 0 and confidence from 0, not {c_init} and {confidence}.")
    image_BCHW = image_BCHW.detach().float()
    eps_B = eps_tensor(eps, image_BCHW, norm)
    starts = Starts(norm, image_BCHW, eps_B, start_BCHW, False, None)
    return CwSearch(
        logits_fn=logits_fn,
        starts=starts,
        label_N=label_B.to(image_BCHW.device),
        steps=steps,
        step_size=step_size,
        runs=starts.extra + searches,
        c_init=c_init,
        confidence=confidence,
        targeted=targeted,
        stop_when_broken=stop_when_broken,
    ).search(batch_size)
