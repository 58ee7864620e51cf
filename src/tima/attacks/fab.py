"""FAB, Croce & Hein 2020, arXiv 1907.02044: the closest adversarial point, by steps onto the nearest decision boundary.

The targeted version (FAB-T) is the one of AutoAttack. Shapes: `B` images, `C` channels or classes, `H, W` pixels, `K` targets.
Cost: two forwards and one backward a step (untargeted: `C` backwards), at most one forward at the end of a
run, and one for the clean logits.
"""

from typing import Any

from torch import Tensor

from tima.attacks._check import check_attack, check_class_numbers, check_numbers, eps_tensor
from tima.attacks._fab import FabSearch
from tima.attacks._starts import Starts
from tima.attacks._targets import runner_up_classes_of
from tima.attacks.losses import LogitsFn
from tima.attacks.projections import Generators
from tima.errors import RecipeError


def fab(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    targeted: bool = False,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = False,
    generator: Generators = None,
    batch_size: int | None = None,
) -> Tensor:
    """Look for the misclassified point nearest to each image; what counts is whether it lies within eps.

    Args and errors are those of `pgd`, with these differences:
        eps: does not guide the search, apart from where random runs begin.
        steps: of one run.
        restarts: runs for each target: the first from the clean image, the others from random points at half of eps.
        targets: lead to so many of the most likely wrong classes one after the other, at most `C - 1`. 0: the untargeted
            version, which goes to the nearest boundary of all classes and pays for every class at every step.
        alpha_max: the largest share of the step that starts in the clean image, in [0, 1].
        eta: how far to go beyond the boundary, at least 1.
        beta: where on the way from the clean image to a misclassified point the search goes on, in (0, 1).
        targeted: `label_B` is the class to reach; `targets` has no meaning then.
        start_BCHW: a point for one extra run, which comes first, towards the first target.
        keep_best: the closest point is what this attack is, so False changes nothing.
        stop_when_broken: the first misclassified point within eps ends the image's search; else the closest one is searched
            to the end.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1]: the closest misclassified point; where none lies
        within eps, the point within eps of largest margin that was met, the closest misclassified one pulled in among them.
    """
    words: dict[str, Any] = {
        "logits_fn": logits_fn,
        "batch_size": batch_size,
        "generator": generator,
        "targets": 1 if targets == 0 else targets,
    }
    check_attack(image_BCHW, label_B, start_BCHW, steps, None, restarts, True, True, **words)
    check_class_numbers(label_B)
    check_numbers(alpha_max=alpha_max, eta=eta, beta=beta)
    if not (0 <= alpha_max <= 1 and eta >= 1 and 0 < beta < 1):
        raise RecipeError(
            f"FAB takes alpha_max in [0, 1], eta from 1 and beta between 0 and 1, not {alpha_max}, {eta} and {beta}."
        )
    image_BCHW, label_B = image_BCHW.detach().float(), label_B.to(image_BCHW.device)
    eps_B = eps_tensor(eps, image_BCHW, norm)
    class_BK = label_B[:, None]
    if targets and not targeted:
        class_BK = runner_up_classes_of(logits_fn, image_BCHW, label_B, targets, batch_size)
    return FabSearch(
        logits_fn=logits_fn,
        starts=Starts(norm, image_BCHW, eps_B, start_BCHW, False, generator),
        randoms=Starts(norm, image_BCHW, eps_B / 2, None, True, generator),
        label_N=label_B,
        class_NK=class_BK,
        way="to_label" if targeted else "to_class" if targets else "away",
        norm=norm,
        steps=steps,
        runs=(0 if start_BCHW is None else 1) + restarts * class_BK.shape[1],
        restarts=restarts,
        alpha_max=alpha_max,
        eta=eta,
        beta=beta,
        stop_when_broken=stop_when_broken,
    ).search(batch_size)
