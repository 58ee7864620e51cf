"""Spread weights beside the rest of the fast path; from one process to spread ones; how processes meet after a restart."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_world
from safetensors.torch import load_file
from training_together import difference, recipe, together

import tima.distributed as distributed
import tima.train as module
from tima.train import train

RUNS: dict[str, dict[str, Any]] = {
    "checkpointing": dict(method="tima", gradient_checkpointing=True, accumulate=2),
    "cache": dict(method="tima", cache_teacher=4, augment="flip", ema=0.9),
    "adamw": dict(method="tecoa", optimizer="adamw", lr=1e-4),
}


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return write_world(tokenizer, tmp_path_factory.mktemp("layouts"), 120, 8)


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


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "restart 2"),
        ({"TORCHELASTIC_RESTART_COUNT": "0"}, None),  # nobody was there before
        ({"GROUP_WORLD_SIZE": "2"}, None),  # each torchrun counts its own
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, None),  # a store of their own
    ],
)
def test_processes_that_were_started_again_meet_under_a_new_name(
    changes: dict[str, str], named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": "1"}
    given |= {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "7", "ACCELERATE_USE_CPU": "true"}
    for key, value in (given | changes).items():
        monkeypatch.setenv(key, value)
    began: list[Any] = []
    monkeypatch.setattr(distributed.dist, "TCPStore", lambda *place, is_master: (*place, is_master))
    monkeypatch.setattr(distributed.dist, "PrefixStore", lambda name, store: (name, store))
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *kind, **words: began.append((*kind, words)))
    distributed.meet_anew()
    expected = ("gloo", {"store": (named, ("here", 7, 2, False)), "rank": 1, "world_size": 2})
    assert began == ([expected] if named else [])
