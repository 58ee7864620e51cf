"""How a run computes: the recipe's precision, compiling, checkpointing and cache, set on student and teacher.

None of it changes what is learned beyond rounding: docs/speed-training.md has what each brings and how that was checked.
"""

from typing import Any

import torch
from torch import nn

from tima._precision import has_bf16
from tima.config import TrainRecipe
from tima.methods import Method
from tima.models import DualEncoder
from tima.teacher_cache import remember


def quicken(student: DualEncoder, teacher: DualEncoder | None, recipe: TrainRecipe, device: torch.device) -> list[str]:
    """Set both models as the recipe says. Returns a list to which is added, also later, what could not be done as asked."""
    notes: list[str] = []
    models = [model for model in (student, teacher) if model is not None]
    if recipe.precision == "bf16":
        if not has_bf16(device):
            notes.append(
                "bf16 is slow here: this device imitates it. precision=fp32 is several times faster, precision=auto takes it"
            )
        for model in models:
            if device.type == "cpu":  # the fused kernel's bf16 backward is slow there
                model.use_attention("eager")
            model.use_lean(torch.bfloat16)
    if recipe.compile:
        if recipe.precision != "bf16":  # so that every number of an fp32 run is the library's
            notes.append("not compiled: compile belongs to precision=bf16, this run has fp32")
        elif recipe.attack.align > 0:
            notes.append("not compiled: attack.align differentiates gradients once more, which compiled code cannot")
        elif not all([model.use_compile(notes) for model in models]):
            notes.append(f"not compiled: only CLIP's image towers are, and '{student.name}' has another")
    if recipe.gradient_checkpointing and not student.use_checkpointing(True):
        notes.append(f"gradient_checkpointing has no effect: no list of layers was found in '{student.name}'")
    if recipe.cache_teacher > 0 and teacher is not None:
        if recipe.augment == "crop":
            notes.append("cache_teacher has no use with augment=crop: no picture comes twice. Take flip or none.")
        elif device.type != "cpu":
            notes.append(
                "cache_teacher is for CPUs: reading pixels back and hashing them takes longer than a GPU's forward pass"
            )
        else:
            remember(teacher, recipe.cache_teacher << 20)
    return notes


def left_undone(student: DualEncoder, method: Method, recipe: TrainRecipe) -> list[str]:
    """What a recipe asks for and does not get with this model, method and its modifiers, once all of them are set up."""
    notes = []
    if recipe.precision == "bf16" and not student.is_lean:
        compiled = " Nothing is compiled." if recipe.compile else ""
        notes.append(
            "bf16 is autocast in this run: the faster image tower (docs/speed-training.md) is for transformers' CLIPModel with "
            f"whole weights and without lora.{compiled}"
        )
    if recipe.cache_teacher > 0 and not (method.needs_teacher and method.teacher_sees_clean):
        notes.append(
            f"cache_teacher has no use with '{method.name}': it never asks the original for a clean picture's embedding"
        )
    return notes


def optimizer_words(params: list[nn.Parameter]) -> dict[str, Any]:
    """`fused` where torch has it: one pass over weights, gradients and moments in place of several."""
    kinds = {p.device.type for p in params}
    plain = all(type(p) in (nn.Parameter, torch.Tensor) and p.dtype == torch.float32 for p in params)
    return {"fused": True} if plain and kinds <= {"cpu", "cuda"} and len(kinds) == 1 else {}
