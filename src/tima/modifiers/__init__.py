"""What combines with any training method: adapters, a visual prompt, weight perturbation. A file each, a line here.

The moving average and the mixture with the original are in `averaging.py`, single-step attacks and GradAlign in
`inner_attack.py` and `grad_align.py`, which the objective calls.
"""

from tima.config import TrainRecipe
from tima.errors import RecipeError
from tima.modifiers.awp import Awp
from tima.modifiers.base import Modifier, Modifiers
from tima.modifiers.lora import Lora
from tima.modifiers.prompt import VisualPrompt


def build_modifiers(recipe: TrainRecipe) -> Modifiers:
    """The modifiers that a recipe asks for; none is the usual case.

    Raises:
        RecipeError: a frame that is to train alone, beside something that trains or moves the towers.
    """
    idle = [name for name, setting in (("lora", recipe.lora), ("awp", recipe.awp)) if setting is not None]
    if recipe.prompt is not None and recipe.prompt.alone and idle:
        names, verb = " and ".join(idle), "have" if len(idle) > 1 else "has"
        raise RecipeError(
            f"prompt.alone=true leaves the towers as they are, so {names} {verb} nothing to do. Leave {names} out, "
            "or set prompt.alone=false."
        )
    members: list[Modifier] = []
    if recipe.lora is not None:
        members.append(Lora(recipe.lora, recipe.mix, recipe.seed))
    if recipe.prompt is not None:
        members.append(VisualPrompt(recipe.prompt, recipe.mix, recipe.seed))
    if recipe.awp is not None:
        members.append(Awp(recipe.awp, round(recipe.awp.warmup * recipe.steps)))
    return Modifiers(members)


__all__ = ["Awp", "Lora", "Modifier", "Modifiers", "VisualPrompt", "build_modifiers"]
