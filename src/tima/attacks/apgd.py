"""Auto-PGD, Croce & Hein 2020, arXiv 2003.01690: momentum, and a step size that halves where progress stalls.

The search itself is in `_apgd.py`. Shapes: `B` images, `C` channels or classes, `H, W` pixels, `K` targets an image.
Cost: `eot_iter` forwards and backwards a step, and as many forwards at the end of a run; targeted losses ask for the
clean logits once.
"""

from typing import Any

from torch import Tensor

from tima.attacks._apgd import Apgd, TargetedApgd
from tima.attacks._check import check_attack, eps_tensor
from tima.attacks._starts import Starts
from tima.attacks._targets import runner_up_classes_of
from tima.attacks.losses import TARGETED_LOSSES, LogitsFn, LossFn, check_can_break, find_loss
from tima.attacks.projections import Generators
from tima.errors import RecipeError


def apgd(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    steps: int = 100,
    restarts: int = 1,
    loss: str | LossFn = "ce",
    targets: int = 9,
    eot_iter: int = 1,
    targeted: bool = False,
    random_start: bool = True,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = False,
    generator: Generators = None,
    batch_size: int | None = None,
) -> Tensor:
    """Search the ball around each image without a step size to tune.

    Args and errors are those of `pgd`, with these differences:
        restarts: runs from random points, for targeted losses so many for each target.
        loss: `ce`, `dlr`, any other name in `losses.LOSSES` or a function; or `ce_targeted` or `dlr_targeted`, which lead to
            the most likely wrong classes one after the other.
        targets: how many of these, at most `C - 1`.
        eot_iter: forward passes a step, whose mean counts, for models that draw random numbers.
        targeted: `label_B` is the class to reach; not together with a targeted loss, which chooses classes itself.
        start_BCHW: a point for one extra run, which comes first, for targeted losses towards the first target.
        keep_best: the best iterate is what this attack is, so False changes nothing.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1]: the iterate of highest loss. Where the loss is a
        targeted one, whose values for two targets do not compare, that of largest margin.
    """
    words: dict[str, Any] = {
        "logits_fn": logits_fn,
        "batch_size": batch_size,
        "generator": generator,
        "targets": targets,
        "eot_iter": eot_iter,
    }
    check_attack(image_BCHW, label_B, start_BCHW, steps, None, restarts, random_start, True, **words)
    if stop_when_broken:
        check_can_break(loss)
    image_BCHW = image_BCHW.detach().float()
    eps_B = eps_tensor(eps, image_BCHW, norm)
    starts = Starts(norm, image_BCHW, eps_B, start_BCHW, random_start, generator)
    settings: dict[str, Any] = {
        "logits_fn": logits_fn,
        "starts": starts,
        "label_N": label_B,
        "steps": steps,
        "targeted": targeted,
        "keep_best": True,
        "stop_when_broken": stop_when_broken,
        "eot_iter": eot_iter,
    }
    if not (isinstance(loss, str) and loss in TARGETED_LOSSES):
        climb = find_loss(loss, targeted=targeted)
        return Apgd(**settings, climb=climb, runs=starts.extra + restarts).search(batch_size)
    if targeted:
        raise RecipeError(f"The loss {loss} chooses its classes itself; to reach one of yours, take ce or margin.")
    class_BK = runner_up_classes_of(logits_fn, image_BCHW, label_B, targets, batch_size)
    runs = starts.extra + restarts * class_BK.shape[1]
    settings |= {"climb": TARGETED_LOSSES[loss], "class_NK": class_BK, "restarts": restarts, "runs": runs}
    return TargetedApgd(**settings).search(batch_size)
