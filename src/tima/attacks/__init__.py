"""Attacks: one function a file, `(logits_fn, image_BCHW, label_B, eps, *, ...) -> adversarial image_BCHW`.

A new attack is one file and one line in `ATTACKS`. The evaluation calls every attack with the keywords `norm`, `start_BCHW`,
`keep_best`, `stop_when_broken`, `generator` (one an image) and `batch_size` besides the protocol's own parameters.
"""

from typing import Any

from tima.attacks._stages import SET_BY_EVALUATION, AttackFn, Stage, check_stages, free_parameters
from tima.attacks.apgd import apgd
from tima.attacks.autoattack import VERSIONS, autoattack, autoattack_stages
from tima.attacks.counting import CountedModel
from tima.attacks.cw import cw
from tima.attacks.fab import fab
from tima.attacks.fgsm import fgsm
from tima.attacks.losses import LOSSES, TARGETED_LOSSES, LogitsFn, LossFn, find_loss
from tima.attacks.mi_fgsm import mi_fgsm
from tima.attacks.noise import noise
from tima.attacks.pgd import pgd
from tima.attacks.square import square
from tima.attacks.transfer import transfer
from tima.errors import RecipeError

ATTACKS: dict[str, AttackFn] = {
    "fgsm": fgsm,
    "pgd": pgd,
    "mi-fgsm": mi_fgsm,
    "cw": cw,
    "apgd": apgd,
    "fab": fab,
    "square": square,
    "noise": noise,
    "transfer": transfer,
    "autoattack": autoattack,
}


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
    free = free_parameters(attack)
    if unknown := [key for key in params if key not in free]:
        raise RecipeError(
            f"Attack '{name}' has no parameter {', '.join(unknown)} to set in a protocol; it has: {', '.join(free)}."
        )
    if name == "transfer" and params.get("source") is None:
        raise RecipeError("Attack 'transfer' needs the model that it works on as source=, which a file cannot name.")
    if name == "autoattack":
        return autoattack_stages(**params)
    return [Stage(_stage_name(name, params), attack, dict(params))]


def attack_title(name: str, params: dict[str, Any]) -> str:
    """What tables and results call an attack. `autoattack` is the full standard version and nothing less: other versions say
    which they are, and whatever was changed is named by its stages."""
    stages = find_stages(name, params)
    for version in VERSIONS if name == "autoattack" else ():
        if stages == autoattack_stages(version):
            return name if version == "standard" else f"{name}-{version}"
    return " + ".join(stage.name for stage in stages)


def _stage_name(name: str, params: dict[str, Any]) -> str:
    """AutoAttack's names for the attacks that it consists of."""
    if name == "apgd":
        loss = params.get("loss", "ce")
        return {"dlr_targeted": "apgd-t", "ce_targeted": "apgd-ce-t"}.get(loss, f"apgd-{loss}")
    return "fab-t" if name == "fab" and params.get("targets", 9) else name


__all__ = [
    "ATTACKS",
    "LOSSES",
    "SET_BY_EVALUATION",
    "TARGETED_LOSSES",
    "AttackFn",
    "CountedModel",
    "LogitsFn",
    "LossFn",
    "Stage",
    "apgd",
    "attack_title",
    "autoattack",
    "check_stages",
    "cw",
    "fab",
    "fgsm",
    "find_attack",
    "find_loss",
    "find_stages",
    "mi_fgsm",
    "noise",
    "pgd",
    "square",
    "transfer",
]
