"""Weights spread over processes (FSDP2): the same weights as without, checkpoints that any number of processes goes on from."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_world
from safetensors.torch import load_file
from spawned import free_port, leaves
from training_together import difference, join, recipe, together, trained
from versions import spreads_weights

from tima.config import TrainRecipe
from tima.distributed_sharding import asked_for, layers
from tima.errors import RecipeError
from tima.models import load_model
from tima.train import train

RUNS: dict[str, dict[str, Any]] = {
    "tima": dict(method="tima", ema=0.9, mix=0.8),
    "ft-adv": dict(method="ft-adv", accumulate=2, prompt={"size": 2}),
    "awp": dict(method="pmg-aft", awp={"gamma": 0.01}),
    "adamw": dict(method="tecoa", optimizer="adamw", lr=1e-4, accumulate=2),  # below: what Adam makes of rounding
}


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return write_world(tokenizer, tmp_path_factory.mktemp("spread"), 120, 8)


@leaves
def stop_then_go_on(rank: int, size: int, port: int, runs: dict[str, TrainRecipe], out: str) -> None:
    """Two processes with spread weights, stopped before step 5; the checkpoint is of step 4."""
    import tima.train as module

    join(rank, size, port)
    real = module.update

    def stops(*arguments: Any) -> Any:
        if arguments[4] == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    module.update = stops
    for name, settings in runs.items():
        with pytest.raises(KeyboardInterrupt):
            train(settings, Path(out) / name, progress=False, shard=True)


@pytest.mark.parametrize(
    ("names", "endings"),
    [
        pytest.param(["tima"], ["spread", "one"], id="a part"),
        pytest.param(list(RUNS), ["spread", "one", "three"], id="all", marks=pytest.mark.slow),
    ],
)
@spreads_weights
def test_spread_weights_learn_the_same_and_go_on_with_any_number(
    names: list[str], endings: list[str], world: dict[str, str], tmp_path: Path
) -> None:
    runs = {name: recipe(world, steps=8, save_every=2, val_every=8, **RUNS[name]) for name in names}
    if "three" in endings:
        together(2, runs, tmp_path / "copies")
    else:  # that copies learn what one process does is test_distributed.py's; two processes fewer to start
        for name, settings in runs.items():
            train(settings, tmp_path / "copies" / name, progress=False)
    together(2, runs, tmp_path / "spread", shard=True)
    torch.multiprocessing.spawn(stop_then_go_on, (2, free_port(), runs, str(tmp_path / "cut")), nprocs=2)
    for name in runs:
        folder = tmp_path / "cut" / name / "checkpoint"
        held = {p.name for p in folder.iterdir()}
        assert sum(n.endswith(".safetensors") for n in held) == 2 and "state.pt" in held and len(held) == 3, held
        assert torch.load(folder / "state.pt", weights_only=True)["progress"]["step"] == 4
    for ending in endings[1:]:
        shutil.copytree(tmp_path / "cut", tmp_path / ending)
    if "three" in endings:
        together(3, runs, tmp_path / "three", shard=True)
    for name, settings in runs.items():
        train(settings, tmp_path / "one" / name, progress=False)
        whole = load_file(tmp_path / "copies" / name / "model" / "model.safetensors")
        for ending in endings:
            got = load_file(tmp_path / ending / name / "model" / "model.safetensors")
            assert difference(whole, got) < 1e-4, (name, ending)  # AdamW steps on rounding too
            summary = json.loads((tmp_path / ending / name / "summary.json").read_text())
            assert summary["best_step"] == 8
        assert difference(trained(tmp_path / "copies" / name), trained(tmp_path / "one" / name)) < 1e-4
    start = load_model(world["model"]).backbone
    assert difference(whole, {k: v for k, v in start.state_dict().items() if k in whole}) > 1e-4


def test_towers_are_cut_at_their_layers(tiny_clip: Any) -> None:
    names = [name for name, module in tiny_clip.named_modules() if any(module is layer for layer in layers(tiny_clip))]
    assert names and all(name.rpartition(".")[0].endswith("layers") for name in names)
    assert {name.split(".")[1] for name in names} == {"vision_model", "text_model"}


def test_who_asks_for_it(monkeypatch: pytest.MonkeyPatch, world: dict[str, str]) -> None:
    assert not asked_for(None) and asked_for(True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(RecipeError, match="fsdp_version: 2"):
        asked_for(None)
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert asked_for(None) and not asked_for(False)


@leaves
def refused(rank: int, size: int, port: int, world: dict[str, str], out: str) -> None:
    join(rank, size, port)
    for name, changes in (("lora", {"lora": {"rank": 2}}), ("align", {"attack": {"align": 0.1}})):
        with pytest.raises(RecipeError, match=name):
            train(recipe(world, **changes), Path(out) / name, progress=False, shard=True)


@spreads_weights
def test_what_cannot_be_spread_is_refused(world: dict[str, str], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(refused, (2, free_port(), world, str(tmp_path)), nprocs=2)
