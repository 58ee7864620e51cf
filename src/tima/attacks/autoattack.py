"""AutoAttack, Croce & Hein 2020, arXiv 2003.01690: the field's yardstick, an ensemble with nothing to tune.

Versions, with the parameters of the authors' code (l_inf and l_2): `standard`, the one that numbers are published for; `plus`,
slower and rarely stronger; `rand`, for models that draw random numbers. A list of stage names is a custom version and never
called AutoAttack. Shapes: `B` images, `C` channels or classes, `H, W` pixels; `A` images that still stand.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tima.attacks._broken import misclassified
from tima.attacks._check import check_attack, check_class_numbers, eps_tensor, not_finite
from tima.attacks._forward import forward
from tima.attacks._stages import AttackFn, Stage, free_parameters
from tima.attacks.apgd import apgd
from tima.attacks.fab import fab
from tima.attacks.losses import LogitsFn, margin
from tima.attacks.projections import Generators
from tima.attacks.square import square
from tima.errors import RecipeError

MEMBERS: dict[str, tuple[AttackFn, dict[str, Any]]] = {
    "apgd-ce": (apgd, {"loss": "ce", "steps": 100, "restarts": 1}),
    "apgd-dlr": (apgd, {"loss": "dlr", "steps": 100, "restarts": 1}),
    "apgd-t": (apgd, {"loss": "dlr_targeted", "targets": 9, "steps": 100, "restarts": 1}),
    "fab": (fab, {"targets": 0, "steps": 100, "restarts": 1}),
    "fab-t": (fab, {"targets": 9, "steps": 100, "restarts": 1}),
    "square": (square, {"queries": 5000, "p_init": 0.8, "rescale": False, "restarts": 1, "ahead": True}),
}
VERSIONS: dict[str, dict[str, dict[str, Any]]] = {
    "standard": {"apgd-ce": {}, "apgd-t": {}, "fab-t": {}, "square": {}},
    "plus": {
        "apgd-ce": {"restarts": 5},
        "apgd-dlr": {"restarts": 5},
        "fab": {"restarts": 5},
        "square": {},
        "apgd-t": {},
        "fab-t": {},
    },
    "rand": {"apgd-ce": {"eot_iter": 20}, "apgd-dlr": {"eot_iter": 20}},
}


def autoattack_stages(version: str | Sequence[str] = "standard", **changes: Any) -> list[Stage]:
    """The stages of a version.

    Args:
        version: a name in `VERSIONS`, or names in `MEMBERS` in the order in which they run.
        changes: parameters for all stages that have them, such as `steps` or `queries`; None changes nothing.

    Raises:
        RecipeError: no such version or stage, one named twice, or a change that no stage has.
    """
    changes = {key: value for key, value in changes.items() if value is not None}
    for key, value in changes.items():  # now: the last stage would say so after hours, or never where nothing is left for it
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RecipeError(f"{key} must be a whole number from 1, not {value!r}.")
    if not isinstance(version, str) and not (isinstance(version, Sequence) and all(isinstance(v, str) for v in version)):
        raise RecipeError(f"version is one of {', '.join(VERSIONS)}, or a list of stages, not {version!r}.")
    if isinstance(version, str) and version not in VERSIONS:
        raise RecipeError(f"AutoAttack has no version '{version}'. Known are: {', '.join(VERSIONS)}; or give a list of stages.")
    wanted = VERSIONS[version] if isinstance(version, str) else {name: {} for name in version}
    if not wanted or len(wanted) < len(version if not isinstance(version, str) else wanted):
        raise RecipeError(f"A custom version needs at least one stage, and none twice: {list(version)}.")
    stages = []
    for name, params in wanted.items():
        if name not in MEMBERS:
            raise RecipeError(f"AutoAttack has no stage '{name}'. Known are: {', '.join(MEMBERS)}.")
        attack, usual = MEMBERS[name]
        # the untargeted FAB is the one with targets 0: a number of targets is not meant for it
        mine = {k: v for k, v in changes.items() if k in free_parameters(attack) and not (k == "targets" and name == "fab")}
        stages.append(Stage(name, attack, {**usual, **params, **mine}))
    if left := [key for key in changes if not any(key in free_parameters(stage.attack) for stage in stages)]:
        raise RecipeError(f"No stage of {', '.join(wanted)} has the parameter {', '.join(left)}.")
    return stages


def autoattack(
    logits_fn: LogitsFn,
    image_BCHW: Tensor,
    label_B: Tensor,
    eps: float | Tensor,
    *,
    norm: str = "l_inf",
    version: str | Sequence[str] = "standard",
    steps: int | None = None,
    restarts: int | None = None,
    targets: int | None = None,
    queries: int | None = None,
    eot_iter: int | None = None,
    start_BCHW: Tensor | None = None,
    keep_best: bool = True,
    stop_when_broken: bool = True,
    generator: Generators = None,
    batch_size: int | None = None,
) -> Tensor:
    """Every stage on what the stages before left standing.

    Args and errors are those of `pgd`, with these differences:
        version: `standard`, `plus`, `rand`, or a list of stages such as `["apgd-ce", "apgd-t"]`.
        steps, restarts, targets, queries, eot_iter: instead of the published numbers, for every stage that has them.
        start_BCHW: every stage tries it.
        keep_best, stop_when_broken: an image is done when it is misclassified, and the best point is kept while it is not:
            False changes nothing.

    Returns:
        Adversarial images `BxCxHxW`, fp32, exactly within eps and [0, 1]: the first misclassified point found; where none
        was, the point of largest margin among what the stages ended with.
    """
    stages = autoattack_stages(version, steps=steps, restarts=restarts, targets=targets, queries=queries, eot_iter=eot_iter)
    words: dict[str, Any] = {"logits_fn": logits_fn, "batch_size": batch_size, "generator": generator}
    check_attack(image_BCHW, label_B, start_BCHW, 1, None, 1, True, True, **words)
    check_class_numbers(label_B)
    image_BCHW = image_BCHW.detach().float()
    eps_B, label_B = eps_tensor(eps, image_BCHW, norm), label_B.to(image_BCHW.device)
    best_BCHW, best_B = image_BCHW.clone(), torch.full((len(image_BCHW),), -torch.inf, device=image_BCHW.device)
    standing_A = torch.arange(len(image_BCHW), device=image_BCHW.device)
    for stage in stages:
        if len(standing_A) == 0:
            break
        x_ACHW = stage.attack(
            logits_fn,
            image_BCHW[standing_A],
            label_B[standing_A],
            eps_B[standing_A],
            norm=norm,
            start_BCHW=None if start_BCHW is None else start_BCHW.to(image_BCHW.device)[standing_A],
            stop_when_broken=True,
            generator=_chosen(generator, standing_A),
            batch_size=batch_size,
            **stage.params,
        )
        output_AC = forward(logits_fn, x_ACHW, batch_size)
        margin_A = margin(output_AC, label_B[standing_A])
        not_finite(~margin_A.isfinite().all())
        better_A = margin_A > best_B[standing_A]
        broken_A = misclassified(logits_fn, x_ACHW, output_AC, label_B[standing_A], False)
        best_BCHW[standing_A[better_A | broken_A]] = x_ACHW[better_A | broken_A]
        best_B[standing_A] = torch.maximum(best_B[standing_A], margin_A)
        standing_A = standing_A[~broken_A]
    return best_BCHW


def _chosen(generator: Generators, index_A: Tensor) -> Generators:
    return [generator[i] for i in index_A.tolist()] if isinstance(generator, Sequence) else generator
