"""Checkpoints of weights that are spread over processes: each writes what it holds, as safetensors.

PyTorch's distributed checkpoint (DCP) splits, names and finds the pieces again, for another number of processes too. Its usual
files hold pickles, which a checkpoint from elsewhere may not; its safetensors back end holds tensors alone.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tima._files import atomic_folder
from tima.averaging import Averages
from tima.distributed import Team
from tima.distributed_sharding import is_sharded
from tima.errors import TimaError

Params = Mapping[str, nn.Parameter]


def write_spread(
    folder: Path,
    params: Params,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    averages: Averages | None,
    team: Team,
) -> None:
    """Every process its pieces, the main one the rest; the folder then appears as a whole.

    Raises:
        TimaError: in every process, where one of them could not write; the checkpoint before stays whole.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    tensors: dict[str, Any] = {f"weight.{name}": p.detach() for name, p in params.items()}
    tensors |= {} if averages is None else averages.state()
    plain = optimizer.state_dict()
    scalars: dict[int, dict[str, Any]] = {}
    for index, name in enumerate(_names(params, optimizer)):
        for key, value in plain["state"].get(index, {}).items():
            if torch.is_tensor(value) and value.ndim:
                tensors[f"optimizer.{key}.{name}"] = value
            else:
                scalars.setdefault(index, {})[key] = value
    spread = {"shapes": {name: tuple(value.shape) for name, value in tensors.items()}, "scalars": scalars}
    state = {"spread": spread | {"groups": plain["param_groups"]}, "rng": torch.get_rng_state(), **progress}
    with _shared_folder(folder, team) as part:
        try:
            writer = dcp.HuggingFaceStorageWriter(str(part), save_distributed=True)
            dcp.save(tensors, storage_writer=writer, process_group=team.group)
        except CheckpointException as error:
            raise TimaError(f"Could not write {folder}: {error}. What was there before is untouched.") from None
        team.main_does(lambda: torch.save(state, part / "state.pt"))


def read_spread(
    folder: Path, spread: dict[str, Any], params: Params, optimizer: torch.optim.Optimizer, averages: Averages | None
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Weights, averages and the optimiser's state, each placed as its parameter is."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    found: dict[str, Any] = {}
    for name, shape in spread["shapes"].items():
        like = params.get(_parameter(name))
        fits = like is not None and tuple(like.shape) == tuple(shape)
        found[name] = torch.empty_like(like.detach()) if fits and like is not None else torch.empty(shape)
    try:
        dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=not dist.is_initialized())
    except CheckpointException as error:
        raise RuntimeError(str(error)) from None
    weights = {name.removeprefix("weight."): value for name, value in found.items() if name.startswith("weight.")}
    kept = {name: value for name, value in found.items() if name.startswith("mean.")}
    state: dict[int, dict[str, Any]] = {index: dict(values) for index, values in spread["scalars"].items()}
    places = {name: index for index, name in enumerate(_names(params, optimizer))}
    for name, value in found.items():
        if name.startswith("optimizer.") and _parameter(name) in places:
            state.setdefault(places[_parameter(name)], {})[name.split(".")[1]] = value
    return weights, kept, {"state": state, "param_groups": spread["groups"]}


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """A full tensor that every process has, spread as `like` is. One that is spread already, or stays whole, as it is."""
    if is_sharded(value) or not is_sharded(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def _names(params: Params, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters in the optimiser's order."""
    name_of = {id(p): name for name, p in params.items()}
    return [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _parameter(name: str) -> str:
    """`weight.NAME`, `mean.NAME` and `optimizer.KEY.NAME` without what is in front of the name."""
    return name.split(".", 2)[2] if name.startswith("optimizer.") else name.split(".", 1)[1]


@contextmanager
def _shared_folder(folder: Path, team: Team) -> Iterator[Path]:
    """`atomic_folder` for all processes at once: the main one makes it and gives it its name."""
    stack = ExitStack()
    made: list[Path] = []
    team.main_does(lambda: made.append(stack.enter_context(atomic_folder(folder))))
    part = team.agree(made[0] if made else None)
    assert part is not None
    try:
        yield part
    except BaseException:
        stack.__exit__(*sys.exc_info())
        raise
    team.main_does(stack.close)
