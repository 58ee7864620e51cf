"""Spread weights beside the rest of the fast path, and a checkpoint of one process that spread ones go on from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip, make_image_set, write_image_folder
from safetensors.torch import load_file
from training_together import difference, recipe, together

import tima.train as module
from tima.train import train

RUNS: dict[str, dict[str, Any]] = {
    "checkpointing": dict(method="tima", gradient_checkpointing=True, accumulate=2),
    "cache": dict(method="tima", cache_teacher=4, augment="flip", ema=0.9),
    "adamw": dict(method="tecoa", optimizer="adamw", lr=1e-4),
}


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("layouts")
    build_tiny_clip(tokenizer).save_pretrained(root / "model")
    write_image_folder(make_image_set(n=120, classes=8), root / "data" / "train")
    return {"model": str(root / "model"), "data": str(root / "data")}


class Stopped(Exception):
    pass


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_process_begins_and_three_spread_ones_end(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round is in test_distributed_sharding.py."""
    runs = {name: recipe(world, steps=8, save_every=4, val_every=8, **change) for name, change in RUNS.items()}
    real = module.update

    def stops(*arguments: Any) -> Any:
        if arguments[4] == 5:
            raise Stopped
        return real(*arguments)

    for name, settings in runs.items():
        train(settings, tmp_path / "whole" / name, progress=False)
        with monkeypatch.context() as patch:
            patch.setattr(module, "update", stops)
            with pytest.raises(Stopped):
                train(settings, tmp_path / "cut" / name, progress=False)
        state = torch.load(tmp_path / "cut" / name / "checkpoint" / "state.pt", weights_only=True)
        assert state["progress"]["step"] == 4 and "spread" not in state
    together(3, runs, tmp_path / "cut", shard=True)
    together(2, runs, tmp_path / "spread", shard=True)
    for name in runs:
        whole = load_file(tmp_path / "whole" / name / "model" / "model.safetensors")
        for ending in ("cut", "spread"):
            got = load_file(tmp_path / ending / name / "model" / "model.safetensors")
            assert difference(whole, got) < 1e-4, (name, ending)
