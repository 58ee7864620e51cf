"""Checkpoints for resuming: written whole or not at all, weights as safetensors, the rest read with `weights_only`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tima._files import atomic_folder
from tima.averaging import Averages
from tima.errors import ModelError


@dataclass
class Progress:
    """Where a run stands. Everything else about a step is a function of its number and the recipe."""

    step: int = 0
    best_score: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    val: dict[str, Any] = field(default_factory=dict)  # the validation of the best checkpoint
    recipe_sha256: str = ""


def save_checkpoint(
    folder: Path,
    params: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    averages: Averages | None = None,
) -> None:
    """Write trained weights (fp32), their average, optimiser, RNG state and progress.

    Raises:
        TimaError: the disk is full; the checkpoint before stays whole.
    """
    with atomic_folder(folder) as part:
        save_file({name: p.detach().contiguous().cpu() for name, p in params.items()}, part / "trained.safetensors")
        if averages is not None and (kept := averages.state()):
            save_file({name: value.contiguous().cpu() for name, value in kept.items()}, part / "averages.safetensors")
        state = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "progress": asdict(progress)}
        torch.save(state, part / "state.pt")


def load_checkpoint(
    folder: Path, params: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, averages: Averages | None = None
) -> Progress:
    """Put a checkpoint's state into `params`, `optimizer` and `averages`.

    Raises:
        ModelError: a damaged checkpoint, or one of another model or method.
    """
    try:
        weights = load_file(folder / "trained.safetensors")
        kept = load_file(folder / "averages.safetensors") if averages is not None and averages.state() else {}
        state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
    except Exception as error:
        raise ModelError(
            f"{folder} is damaged and cannot be resumed from ({error}). Delete it to start the run anew."
        ) from error
    shapes = {name: tuple(p.shape) for name, p in params.items()}
    if {name: tuple(w.shape) for name, w in weights.items()} != shapes:
        strange = sorted(set(weights) ^ set(shapes))[:3] or [n for n in shapes if tuple(weights[n].shape) != shapes[n]][:3]
        raise ModelError(f"{folder} is the checkpoint of another model or method: it differs in {', '.join(strange)}.")
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(weights[name])
    if averages is not None:
        averages.load_state(kept)
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return Progress(**state["progress"])
