"""Square Attack, Andriushchenko et al. 2020, arXiv 1912.00049: random search with squares; it sees the answers only.

Needs no gradient, so it also breaks models that hide theirs. Shapes: `B` images, `C` channels or classes, `H, W` pixels.
Cost: at most `queries` forwards an image and restart, one more where a start is given, and what is asked ahead in vain.
"""

from typing import Any

from torch import Tensor

from tima.attacks._check import check_attack, check_class_numbers, check_numbers, eps_tensor
from tima.attacks._generators import one_each
from tima.attacks._square import SquareSearch
from tima.attacks._square_l2 import L2Squares
from tima.attacks._squares import LInfSquares
from tima.attacks._starts import Starts
from tima.attacks.losses import LogitsFn, LossFn, find_loss
from tima.attacks.projections import Generators
from tima.errors import RecipeError


def square(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    queries: int = 5000,
    restarts: int = 1,
    p_init: float = 0.8,
    rescale: bool = True,
    loss: str | LossFn = "margin",
    targeted: bool = False,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = False,
    generator: Generators = None,
    batch_size: int | None = None,
    ahead: bool = False,
) -> Tensor:
    """Change one square after the other, and keep a change where the loss has risen.

    Args and errors are those of `pgd`, with these differences:
        queries: how often the model is asked about an image in one restart.
        p_init: share of the image that the first squares cover; it halves again and again (see `_squares.shares`).
        rescale: fit the schedule of these shares, which is written for 10,000 queries, to `queries`. AutoAttack does not.
        loss: `margin` or `ce` in the paper; any other name in `losses.LOSSES`, or a function.
        start_BCHW: a point that is asked about first and returned if nothing better is found. The search itself begins where it
            would without, so that a start never makes the attack weaker.
        keep_best: the best point is what this attack is, so False changes nothing.
        ahead: where the batch has room, ask several queries of an image at once and throw away those after the first that is
            kept. Same outcome, less time, more calls than `queries`: for a model whose every answer costs, leave it off.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1].
    """
    words: dict[str, Any] = {"logits_fn": logits_fn, "batch_size": batch_size, "generator": generator}
    check_attack(image_BCHW, label_B, start_BCHW, queries, None, restarts, True, True, **words)
    check_class_numbers(label_B)
    check_numbers(p_init=p_init)
    if not 0 < p_init <= 1:
        raise RecipeError(f"p_init {p_init} is not a share: it must be above 0 and at most 1.")
    image_BCHW = image_BCHW.detach().float()
    eps_B = eps_tensor(eps, image_BCHW, norm)
    starts = Starts(norm, image_BCHW, eps_B, start_BCHW, False, None)
    climb = find_loss(loss, targeted=targeted)
    squares = (LInfSquares if norm == "l_inf" else L2Squares)(image_BCHW.shape, queries, p_init, rescale)
    return SquareSearch(
        logits_fn=logits_fn,
        starts=starts,
        label_N=label_B.to(image_BCHW.device),
        squares=squares,
        queries=queries,
        restarts=restarts,
        climb=climb,
        targeted=targeted,
        stop_when_broken=stop_when_broken,
        ahead=ahead,
        generators=one_each(generator, len(image_BCHW)),
    ).search(batch_size)
