"""What a training run leaves in its folder: the recipe it claims the folder with, the best model, the summary."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from tima._files import atomic_folder, write_text
from tima._precision import settle
from tima.checkpoint import Progress
from tima.config import TrainRecipe, dump, train_recipe
from tima.distributed import Team
from tima.distributed_sharding import is_sharded, whole_model
from tima.errors import RecipeError, TimaError
from tima.models import DualEncoder
from tima.split import Split


def save_model(student: DualEncoder, folder: Path, team: Team | None = None, source: str | None = None) -> None:
    """Write a model in its library's own format. Every process calls this; one writes.

    Args:
        source: where the model was loaded from, when its weights may be spread over the processes.
    """
    team = team or Team()
    model: DualEncoder | None = student
    if source is not None and any(is_sharded(p) for p in student.backbone.parameters()):
        model = whole_model(student, source, team.main)

    def write() -> None:
        assert model is not None
        with atomic_folder(folder) as part:
            model.save_pretrained(part)

    team.main_does(write)


def fingerprint(recipe: TrainRecipe) -> str:
    return hashlib.sha256(dump(recipe).encode()).hexdigest()


def settled(recipe: TrainRecipe, out: Path, device: torch.device, team: Team) -> TrainRecipe:
    """The recipe with `precision: auto` decided: as a run in `out` has it, else by what all processes' devices compute in."""
    if recipe.precision != "auto":
        return recipe
    try:
        begun = train_recipe(out / "recipe.yaml").precision if (out / "recipe.yaml").is_file() else "auto"
    except RecipeError:  # `refuse_other` says what is wrong with the folder
        begun = "auto"
    found = team.everyone(settle(team.agree(begun), device))
    return recipe.model_copy(update={"precision": "bf16" if set(found) == {"bf16"} else "fp32"})


def claim(out: Path, recipe: TrainRecipe, team: Team) -> None:
    """Store the recipe: from now on the folder is this run's.

    Raises:
        TimaError: a folder that holds a run with other settings, or one that only some of the processes see.
    """
    stored = out / "recipe.yaml"
    team.main_does(lambda: None if stored.is_file() else write_text(stored, dump(recipe)))
    with team.together():
        if not stored.is_file():
            raise TimaError(f"{out} is not on a disk that all processes share. Checkpoints are: give an --out that is.")
    refuse_other(out, recipe, team)


def refuse_other(out: Path, recipe: TrainRecipe, team: Team) -> None:
    """Raise `TimaError` where the folder holds a run with other settings, or cannot be written. Nothing is written here."""
    stored = out / "recipe.yaml"
    team.main_does(lambda: _writable(out))
    with team.together():
        if not stored.is_file():
            return
        try:
            same = train_recipe(stored) == recipe  # settings, not text: those added since the run began have their defaults
        except RecipeError:
            same = False
        if not same:
            raise TimaError(
                f"{out} holds a run with other settings (see {stored}). Give another --out, or delete the folder, "
                f"or go on with its own settings: tima train --resume {out}"
            )


def _writable(out: Path) -> None:
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        why = "may not be written" if place.is_dir() else "is a file"
        raise TimaError(f"{out} cannot be written: {place} {why}. Give another --out.")


def summary(recipe: TrainRecipe, state: Progress, split: Split, quarantined: int) -> dict[str, Any]:
    from tima.results import versions

    return {
        "method": recipe.method,
        "model": recipe.model,
        "data": split.train.name,
        "eps": recipe.eps,
        "steps": recipe.steps,
        "images_seen": recipe.steps * min(recipe.batch_size, len(split.train)),
        "train_images": len(split.train),
        "train_classes": len(split.train.class_names),
        "seconds": round(state.seconds, 1),
        "best_step": state.best_step,
        "best_score": round(state.best_score, 5),
        "val": state.val,
        "seed": recipe.seed,
        "recipe_sha256": state.recipe_sha256,
        "quarantine": quarantined,
        "versions": versions(),
    }
