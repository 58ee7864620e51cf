"""Runs of several gloo processes on one machine, as `torchrun` would start them, for the tests of training together."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from spawned import free_port, leaves

from tima.config import TrainRecipe
from tima.train import train


def recipe(world: dict[str, str], **changes: Any) -> TrainRecipe:
    """Ten images do not divide by three; SGD, because Adam makes full steps out of gradients that are rounding alone."""
    values: dict[str, Any] = dict(method="tecoa", steps=20, batch_size=10, lr=0.02, optimizer="sgd", precision="fp32")
    values |= dict(val_every=20, save_every=20, val_samples=21, val_attack_steps=2, held_out_classes=0.25, warmup=0.0)
    return TrainRecipe(**{**values, "templates": ["a photo of a {c}.", "a {c}"], **world, **changes})


def join(rank: int, size: int, port: int) -> None:
    """The environment that a launcher gives a process."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), ACCELERATE_USE_CPU="true")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)


@leaves
def work(rank: int, size: int, port: int, runs: dict[str, TrainRecipe], out: str, shard: bool) -> None:
    join(rank, size, port)
    for name, settings in runs.items():
        train(settings, Path(out) / name, progress=False, shard=shard)
    assert torch.distributed.get_world_size() == size, "a launcher that starts one process proves nothing"


def together(size: int, runs: dict[str, TrainRecipe], out: Path, *, shard: bool = False) -> None:
    """All runs, one after the other, in `size` processes."""
    torch.multiprocessing.spawn(work, (size, free_port(), runs, str(out), shard), nprocs=size)


def trained(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint" / "trained.safetensors")


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert set(one) == set(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one)
