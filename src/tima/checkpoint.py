"""Checkpoints for resuming: written whole or not at all, weights as safetensors, the rest read with `weights_only`.

Two layouts: one process writes everything, or, where weights are spread over processes, each writes its own
(`distributed_checkpoint.py`). Either goes on with any number of processes, spread or not.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tima._files import atomic_folder
from tima.averaging import Averages
from tima.distributed import Team
from tima.distributed_checkpoint import placed_like, read_spread, write_spread
from tima.distributed_sharding import is_sharded
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
    team: Team | None = None,
) -> None:
    """Write trained weights (fp32), their average, optimiser, RNG state and progress. Every process calls this.

    Raises:
        TimaError: the disk is full; the checkpoint before stays whole.
    """
    team = team or Team()
    if any(is_sharded(p) for p in params.values()):
        write_spread(folder, params, optimizer, {"progress": asdict(progress)}, averages, team)
    else:
        team.main_does(lambda: _write(folder, params, optimizer, progress, averages))


def _write(
    folder: Path,
    params: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    averages: Averages | None,
) -> None:
    with atomic_folder(folder) as part:
        save_file({name: p.detach().contiguous().cpu() for name, p in params.items()}, part / "trained.safetensors")
        if averages is not None and (kept := averages.state()):
            save_file({name: value.contiguous().cpu() for name, value in kept.items()}, part / "averages.safetensors")
        state = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "progress": asdict(progress)}
        torch.save(state, part / "state.pt")


def load_checkpoint(
    folder: Path, params: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, averages: Averages | None = None
) -> Progress:
    """Put a checkpoint's state into `params`, `optimizer` and `averages`, whichever layout it has and wherever they are.

    Raises:
        ModelError: a damaged checkpoint, or one of another model or method.
    """
    try:
        state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        if "spread" in state:
            weights, kept, optimizer_state = read_spread(folder, state["spread"], params, optimizer, averages)
        else:
            weights = load_file(folder / "trained.safetensors")
            kept = load_file(folder / "averages.safetensors") if averages is not None and averages.state() else {}
            optimizer_state = state["optimizer"]
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
            p.copy_(placed_like(weights[name], p))
    if averages is not None:
        averages.load_state({f"mean.{name}": placed_like(kept[f"mean.{name}"], mean) for name, mean in averages.mean.items()})
    listed = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in optimizer_state["state"].items():
        for key, value in values.items():
            if value is not None and torch.is_tensor(value) and value.ndim:
                values[key] = placed_like(value, listed[index])
    for group, stored in zip(optimizer.param_groups, optimizer_state["param_groups"], strict=True):
        stored |= {
            key: group[key] for key in ("foreach", "fused") if key in group
        }  # how it computes is this machine's business
    optimizer.load_state_dict(optimizer_state)
    torch.set_rng_state(state["rng"])
    return Progress(**state["progress"])
