"""Training with a real compiler, which takes most of a minute: the same up to rounding, also resumed, also checkpointed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import build_tiny_clip, make_image_set
from safetensors.torch import load_file

import tima.train as module
from tima.config import TrainRecipe
from tima.train import train

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_is_the_uncompiled_one_and_resumes(
    checkpointing: bool, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    values: dict[str, Any] = dict(
        model=str(tmp_path / "model"), method="tima", steps=4, batch_size=8, save_every=2, val_every=4
    )
    values |= dict(val_samples=8, val_attack_steps=1, augment="flip", cache_teacher=4, max_classes=4, held_out_classes=0.25)
    values |= dict(precision="bf16", gradient_checkpointing=checkpointing, optimizer="sgd", lr=0.01, warmup=0.0)
    images = make_image_set(120, 8)
    plain = train(TrainRecipe(**values), tmp_path / "plain", progress=False, images=images)
    compiled = TrainRecipe(**values, compile=True)
    whole = train(compiled, tmp_path / "whole", progress=True, images=images)
    assert "not compiled" not in capsys.readouterr().err
    real = module.update

    def stops(*arguments: Any) -> Any:
        if arguments[4] == 3:
            raise Stopped
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "update", stops)
        with pytest.raises(Stopped):
            train(compiled, tmp_path / "cut", progress=False, images=images)
    resumed = train(compiled, tmp_path / "cut", progress=False, images=images)
    start, *ends = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", plain, whole, resumed))

    def apart(one: dict[str, Any], other: dict[str, Any]) -> float:
        return float(sum((one[name] - other[name]).square().sum() for name in one) ** 0.5)

    moved = apart(start, ends[0])
    assert apart(ends[1], ends[2]) < 0.01 * moved, "resumed: the same but for the last bits"
    assert apart(ends[0], ends[1]) < 0.2 * moved, "compiled: bf16 rounding in another order, and signs of it in the attack"
