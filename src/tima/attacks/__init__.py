"""Attacks: one function a file, `(logits_fn, image_BCHW, label_B, eps, *, ...) -> adversarial image_BCHW`.

A new attack is one file and one line in `ATTACKS`. The evaluation calls every attack with the keywords `norm`,
`start_BCHW`, `keep_best`, `stop_when_broken` and `generator` (one an image) besides the protocol's own parameters.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tima.attacks.apgd import apgd
from tima.attacks.counting import CountedModel
from tima.attacks.fgsm import fgsm
from tima.attacks.losses import LOSSES, TARGETED_LOSSES, LogitsFn, LossFn, find_loss
from tima.attacks.mi_fgsm import mi_fgsm
from tima.attacks.pgd import pgd
from tima.errors import RecipeError

AttackFn = Callable[..., Tensor]

# The order of truth needs these as the evaluation sets them; a targeted attack has no robust accuracy.
SET_BY_EVALUATION = ("norm", "start_BCHW", "keep_best", "stop_when_broken", "generator", "targeted")

ATTACKS: dict[str, AttackFn] = {"fgsm": fgsm, "pgd": pgd, "mi-fgsm": mi_fgsm, "apgd": apgd}


@dataclass(frozen=True)
class Stage:
    """One attack of a protocol with its parameters. Stages run in order, each on what the ones before left standing."""

    name: str
    attack: AttackFn
    params: dict[str, Any]


def find_attack(name: str) -> AttackFn:
    """An attack by name.

    Raises:
        RecipeError: no attack of that name.
    """
    if name not in ATTACKS:
        raise RecipeError(f"There is no attack '{name}'. Known are: {', '.join(ATTACKS)}.")
    return ATTACKS[name]


def find_stages(name: str, params: dict[str, Any]) -> list[Stage]:
    """What a protocol's attack consists of: a single attack is one stage, an ensemble is several.

    Raises:
        RecipeError: no attack of that name, or a parameter that it does not have or that the evaluation sets itself.
    """
    attack = find_attack(name)
    keywords = inspect.signature(attack).parameters.values()
    free = [k.name for k in keywords if k.kind is k.KEYWORD_ONLY and k.name not in SET_BY_EVALUATION]
    if unknown := [key for key in params if key not in free]:
        raise RecipeError(
            f"Attack '{name}' has no parameter {', '.join(unknown)} to set in a protocol; it has: {', '.join(free)}."
        )
    return [Stage(name, attack, dict(params))]


__all__ = [
    "ATTACKS",
    "LOSSES",
    "TARGETED_LOSSES",
    "AttackFn",
    "CountedModel",
    "LogitsFn",
    "LossFn",
    "Stage",
    "apgd",
    "fgsm",
    "find_attack",
    "find_loss",
    "find_stages",
    "mi_fgsm",
    "pgd",
]
