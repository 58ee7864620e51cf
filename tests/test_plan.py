"""The plan's arithmetic by hand, the fit on made-up measurements, refusals, the command."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tima.bench.geometries import write_random
from tima.bench.towers import Shape, Tower, shape_of
from tima.cli import app
from tima.errors import RecipeError, ResultError, TimaError
from tima.models import load_model
from tima.plan import PlanRequest, find_device, plan
from tima.plan.estimate import communication
from tima.plan.memory import kept, memory_parts
from tima.plan.rates import KINDS, NAMES, Rates, assumed, calibrated
from tima.plan.work import StepWork

IMAGE = Tower(layers=2, width=4, mlp=16, heads=2, tokens=5, out=3, patch=12, positions=5)
TEXT = Tower(layers=1, width=4, mlp=16, heads=2, tokens=6, out=3, vocab=50, positions=77)
PASSES = {"attack forward": 3.0, "attack backward": 2.0, "outer forward": 1.0, "outer backward": 1.0, "teacher forward": 1.0}
STEP = StepWork(Shape(IMAGE, TEXT, 4), 8, 10, 10, 10, PASSES, 1000.0, 2, False)


def test_work_of_a_step_by_hand() -> None:
    found = STEP.phases()
    logits = 2 * 8 * 10 * 3
    assert found["teacher"][:2] == (8 * IMAGE.linear, 8 * IMAGE.attention)
    assert found["attack forward"][0] == 3 * (8 * IMAGE.linear + logits)
    assert found["attack backward"][:2] == (2 * (8 * IMAGE.linear + logits), 2 * 2 * 8 * IMAGE.attention)
    terms = 3 * logits + 6 * 10**2 * 3
    assert found["outer forward"][0] == 8 * IMAGE.linear + terms
    assert found["outer backward"][0] == 8 * (2 * IMAGE.linear - IMAGE.embedding) + 2 * terms
    assert found["text backward"][0] == 10 * 2 * TEXT.linear
    assert "text forward" not in replace(STEP, texts=0.0, texts_backward=0.0).phases()


def test_seconds_are_work_times_rates() -> None:
    rates = Rates(dict.fromkeys(NAMES, 0.0) | {"linear": 2.0, "teacher": 3.0, "optimiser": 0.5, "step": 7.0})
    assert rates.seconds(STEP) == 3 * 2 * 8 * IMAGE.linear + 0.5 * 1000 + 7


def test_memory_by_hand() -> None:
    parameters = IMAGE.parameters + TEXT.parameters
    words: dict[str, Any] = dict(saving=False, fused=True, precision="fp32")
    one, two = (memory_parts(STEP, sharded=n, **words) for n in (1, 2))
    assert one["weights"] == one["teacher"] == pytest.approx(4e-9 * parameters)
    assert (one["gradients"], one["optimiser"]) == (pytest.approx(4e-6), pytest.approx(8e-6))
    assert two["optimiser"] == pytest.approx(4e-6) and two["teacher"] == one["teacher"]
    first, layer = 5 * 4 + 4 * 12, 5 * (5 * 4 + 16) + 5 * (3 * 4 + 16)
    assert kept(IMAGE, saving=False, fused=True) == first + 2 * layer
    assert kept(IMAGE, saving=True, fused=True) == first + 2 * 5 * 4 + layer
    assert kept(IMAGE, saving=False, fused=False) - first - 2 * layer == 2 * 2 * 25
    assert kept(replace(IMAGE, last_token_only=True), saving=False, fused=True) == first + layer + 5 * 4 * 4


def test_copies_in_bf16_and_lists_of_texts_that_go_through_in_pieces() -> None:
    words: dict[str, Any] = dict(sharded=1, saving=False, fused=True)
    exact, half = (memory_parts(STEP, precision=p, **words) for p in ("fp32", "bf16"))
    assert half["weights"] - exact["weights"] == pytest.approx(2 * 2e-9 * IMAGE.parameters)  # the attack's, and the update's
    assert half["teacher"] - exact["teacher"] == pytest.approx(2e-9 * IMAGE.parameters)
    assert half["activations"] == pytest.approx(exact["activations"] / 2)
    pieces = [memory_parts(replace(STEP, texts_backward=n), precision="fp32", **words)["activations"] for n in (0, 2048, 20000)]
    assert pieces[2] == pieces[1] and pieces[1] - pieces[0] == pytest.approx(
        4e-9 * 2048 * kept(TEXT, saving=False, fused=False)
    )
    attack = replace(STEP, passes={**PASSES, "outer forward": 0.0}, texts_backward=0.0)
    saved = memory_parts(attack, precision="fp32", sharded=1, saving=True, fused=True)["activations"]
    assert saved == pytest.approx(4e-9 * 8 * kept(IMAGE, saving=True, fused=True))


def test_checkpointing_runs_every_layer_forward_once_more() -> None:
    again = STEP.recomputed()
    assert (again.passes["attack forward"], again.passes["outer forward"], again.texts) == (3 + 2, 1 + 1, 20)
    assert (again.passes["teacher forward"], again.texts_backward) == (1, 10)
    found = plan(PlanRequest("ViT-L-14", "tima", images=1000, gpus="8xH100"))
    assert 1.2 < found["checkpointing_times"] < 1.6  # TIMA with PGD-2 and the best iterate: 9 forward passes' worth, 3 more


def test_a_long_list_of_texts_is_run_twice() -> None:
    def seconds(method: str, classes: int) -> float:
        found = plan(PlanRequest("ViT-B-32", method, images=1e4, classes=classes, gpus="H100"))
        return float(found["seconds_per_step"]["likely"])

    assert 1.05 < seconds("tima", 2049) / seconds("tima", 2048) < 2
    assert seconds("tecoa", 2049) / seconds("tecoa", 2048) < 1.01, "frozen texts are encoded once for a run"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_layers_keep_is_what_torch_keeps(tmp_path: Path, dtype: torch.dtype) -> None:
    """In a forward pass of the lean tower, with and without gradients of weights, with and without checkpointing."""
    model = load_model(write_random("random:small@64/10", tmp_path / "m"))
    shape = shape_of(model)
    assert shape is not None
    model.use_lean(dtype)
    tower, count = replace(shape.image, last_token_only=True), 7
    for trains, saving in itertools.product((True, False), (False, True)):
        model.requires_grad_(trains)
        model.use_checkpointing(saving)
        held: dict[int, int] = {}

        def keep(t: torch.Tensor, held: dict[int, int] = held) -> torch.Tensor:
            if any(n in (count, count * tower.heads, count * tower.tokens, count * (tower.tokens - 1)) for n in t.shape[:2]):
                held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()  # no weight has such a side
            return t

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            model.encode_image(torch.rand(count, 3, 64, 64, requires_grad=not trains))
        numbers = sum(held.values()) / count / dtype.itemsize
        words: dict[str, Any] = dict(fused=False, weights=trains)
        predicted = kept(tower, saving=saving, **words)
        if saving:  # the layer that is worked out again is there in the backward pass only
            one = replace(tower, layers=2, last_token_only=False)
            predicted -= kept(one, saving=False, **words) - kept(replace(one, layers=1), saving=False, **words)
        assert numbers == pytest.approx(predicted, rel=0.15), (trains, saving)


def test_communication_of_a_ring() -> None:
    _, device = find_device("H100")
    assert communication(device, 1, 1e9) == 0
    assert communication(device, 8, 1e9) == pytest.approx(2 * 7 / 8 * 4e9 / 450e9)
    assert communication(device, 16, 1e9) == pytest.approx(2 * 15 / 16 * 4e9 / 50e9)  # over the network


def made_up(truth: Rates) -> dict[str, Any]:
    """A record whose phases took what `truth` says."""
    jobs, models = [], {}
    for width in (64, 256, 768):
        image, text = (replace(t, width=width, mlp=4 * width, heads=4, layers=6, tokens=50) for t in (IMAGE, TEXT))
        shape = Shape(image, text, 32)
        models[str(width)] = {"shape": {"image": image.__dict__, "text": text.__dict__, "image_size": 32, "exact": True}}
        for batch in (8, 64):
            step = replace(STEP, shape=shape, batch=batch, trained=1e6)
            phases = {name: [seconds] for name, seconds in truth.phases(step).items()}
            facts = {"model": str(width), "precision": "bf16", "batch": batch, "classes": 10, "attack_steps": 2}
            facts |= {"passes": PASSES | {"texts": 10, "texts backward": 10}, "trained": 1e6, "lean": False, "text_tokens": 50}
            jobs.append(facts | {"phases": phases, "seconds": {"median": truth.seconds(step)}})
    return {
        "kind": "tima bench 1",
        "peak_gflops": {"bf16": {"best": 1000.0}},
        "copy_gb_per_s": 10.0,
        "models": models,
        "jobs": jobs,
    }


def test_the_fit_finds_what_made_the_measurements() -> None:
    truth = assumed(find_device("L4")[1], "bf16")
    truth = Rates({name: value * (150 if name in KINDS else 1) for name, value in truth.values.items()} | {"text": 1e-5})
    found = calibrated(made_up(truth), "bf16")
    assert found.worst is not None and found.worst < 1.1
    other = replace(STEP, shape=Shape(replace(IMAGE, width=512, mlp=2048, layers=12, tokens=50), TEXT, 32), batch=32)
    assert found.seconds(other) == pytest.approx(truth.seconds(other), rel=0.15)


def test_hours_and_cost_follow_from_steps() -> None:
    request = PlanRequest("ViT-B-32", "tecoa", images=1000, epochs=3, batch=128, gpus="2xA100", price=1.5)
    found = plan(request)
    assert found["optimiser_steps"] == 24 and found["passes"] == {k: v for k, v in PASSES.items() if k != "teacher forward"}
    seconds = found["seconds_per_step"]
    assert seconds["low"] < seconds["likely"] < seconds["high"]
    assert found["hours"]["likely"] == pytest.approx(24 * seconds["likely"] / 3600)
    assert found["cost"]["high"] == pytest.approx(24 * seconds["high"] / 3600 * 2 * 1.5)
    assert plan(replace(request, images=2000))["hours"]["likely"] == pytest.approx(47 / 24 * found["hours"]["likely"])


def test_what_does_not_fit_is_said() -> None:
    found = plan(PlanRequest("ViT-H-14", batch=64, gpus="RTX4090"))
    assert "RTX4090 has 24" in found["warnings"][0]
    assert plan(PlanRequest("ViT-B-32", batch=64, gpus="H200"))["warnings"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": "8xZ9"}, "no figures of a 'Z9'"),
        ({"gpus": "8 of them"}, "cannot be read"),
        ({"gpus": None}, "of this machine nothing is known"),
        ({"images": 1e15}, "more pictures than there are"),
        ({"images": -1.0}, "--images must be a number above 0"),
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"price": float("nan")}, "--price"),
        ({"calibration": {}}, "one of the two"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(replace(PlanRequest("ViT-B-32", gpus="8xH100"), **changes))


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(ResultError, match="no record of tima bench"):
        calibrated({"kind": "else"}, "bf16")
    record = made_up(assumed(find_device("L4")[1], "bf16"))
    with pytest.raises(ResultError, match="no training step in fp32"):
        calibrated(record | {"peak_gflops": {"fp32": {"best": 1.0}}}, "fp32")


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    words = "plan --model ViT-L-14 --method tima --images 1.28e6 --epochs 2 --steps 10 --gpus 8xH100 --price 2.5 --out"
    ran = CliRunner().invoke(app, [*words.split(), str(out)])
    assert ran.exit_code == 0 and "cost" in ran.output and "20,000 optimiser steps" in ran.output
    assert json.loads(out.read_text())["devices"] == 8
    failed = CliRunner().invoke(app, ["plan", "--model", "ViT-L-14"])
    assert isinstance(failed.exception, TimaError)
