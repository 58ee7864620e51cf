"""The moving average and the mixture with the original: right by hand, invisible to training, exact after a stop."""

from pathlib import Path

import pytest
import torch
from conftest import write_world
from torch import nn

from tima._files import sha256_file
from tima.averaging import Averages
from tima.config import TrainRecipe
from tima.models import load_model
from tima.train import train


def test_the_average_by_hand() -> None:
    p = nn.Parameter(torch.tensor([0.0]))
    averages = Averages({"p": p}, ema=0.5, mix=1.0)
    expected = 0.0
    for step, value in enumerate([1.0, 3.0, -2.0, 5.0, 5.0, 1.0, 0.0, 2.0, 8.0]):
        p.data.fill_(value)
        averages.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with averages.applied():
        assert float(p.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(p.detach()) == 8.0


def test_the_mixture_by_hand_and_own_weights_come_back_after_an_error() -> None:
    p = nn.Parameter(torch.tensor([2.0]))
    averages = Averages({"p": p}, ema=0.0, mix=0.25)
    p.data.fill_(0.1)
    averages.update(0)
    with pytest.raises(ZeroDivisionError), averages.applied():
        assert float(p.detach()) == pytest.approx(0.75 * 2 + 0.25 * 0.1)
        raise ZeroDivisionError
    assert torch.equal(p.detach(), torch.tensor([0.1])), "bit for bit"
    with Averages({"p": p}, 0.0, 1.0).applied():
        assert torch.equal(p.detach(), torch.tensor([0.1]))


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return write_world(tokenizer, tmp_path_factory.mktemp("averaging"), 60, 4)


def recipe(world: dict[str, str], **changes: object) -> TrainRecipe:
    values: dict[str, object] = dict(method="tecoa", steps=6, batch_size=8, lr=1e-3, val_every=6, save_every=2, val_samples=8)
    return TrainRecipe(**{**values, "held_out_classes": 0.25, "precision": "fp32", **world, **changes})  # type: ignore[arg-type]


def test_training_itself_is_untouched_and_the_model_is_the_mixture(world: dict[str, str], tmp_path: Path) -> None:
    plain, mixed = (train(recipe(world, mix=mix), tmp_path / f"{mix}", progress=False) for mix in (1.0, 0.5))
    last = [sha256_file(folder.parent / "checkpoint" / "trained.safetensors") for folder in (plain, mixed)]
    assert last[0] == last[1], "the weights that train are the same"
    pairs = [dict(load_model(place).backbone.named_parameters()) for place in (world["model"], plain, mixed)]
    for name, original in pairs[0].items():
        torch.testing.assert_close(pairs[2][name], (original + pairs[1][name]) / 2, atol=1e-6, rtol=0)


def test_a_stopped_run_with_an_average_resumes_to_the_same_bits(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tima.train as module

    settings = recipe(world, ema=0.9, mix=0.8)
    train(settings, tmp_path / "whole", progress=False)
    real, calls = module.update, []

    def fails(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "update", fails)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "cut", progress=False)
    monkeypatch.setattr(module, "update", real)
    train(settings, tmp_path / "cut", progress=False)
    digests = [sha256_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "cut")]
    assert digests[0] == digests[1]
