"""Experiment trackers through Accelerate: which can be used, what they are told at the start, and how runs are named there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tima.config import TrainRecipe
from tima.errors import RecipeError

PROJECT = "tima"
EXTRA = ("tensorboard", "wandb", "mlflow", "trackio")  # what the extra `track` installs


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that Accelerate does not know or cannot load: it would leave it out and log nothing.

    Raises:
        RecipeError: with the names there are, or what to install.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
    ready = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise RecipeError(f"Tracker '{name}' is unknown. Take some of: {', '.join(sorted(known))}")
        if name not in ready:
            install = '"tima[track]"' if name in EXTRA else name
            raise RecipeError(f"Tracker '{name}' is not installed. Install it: pip install {install}")


def tracker_folder(out: Path) -> Path:
    """Where trackers that keep files keep them: inside the run."""
    return out / "tracking"


def tracker_options(names: Sequence[str], out: Path) -> dict[str, dict[str, Any]]:
    """What each tracker is given when it starts, so that a run bears its folder's name and its files lie in that folder."""
    name = out.resolve().name
    options: dict[str, dict[str, Any]] = {
        # files, not a server: the folder must be there before wandb will use it
        "wandb": {"name": name, "dir": str(tracker_folder(out))},
        "mlflow": {"run_name": name},
        "trackio": {"name": name},
    }
    if "wandb" in names:
        tracker_folder(out).mkdir(parents=True, exist_ok=True)
    return {tracker: options[tracker] for tracker in names if tracker in options}


def tracker_config(recipe: TrainRecipe) -> dict[str, str | int | float | bool]:
    """The recipe flat, as every tracker takes it: `attack.steps`, numbers as numbers, lists and nothing as JSON."""
    found: dict[str, str | int | float | bool] = {}

    def add(prefix: str, values: dict[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and value:
                add(f"{prefix}{key}.", value)
            else:
                found[prefix + key] = value if isinstance(value, str | int | float | bool) else json.dumps(value, default=str)

    add("", recipe.model_dump())
    return found
