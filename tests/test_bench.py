"""Operation counts against torch's counter, phases that sum to the whole, a small bench of the real trainer, refusals."""

import time
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip
from exported import tiny_siglip, tiny_two_tower

from tima.bench import BenchSettings, bench, jobs, shape_of
from tima.bench.counting import counted_image, counted_text
from tima.bench.geometries import find_geometry, shape_named, write_random
from tima.bench.peak import matmul_peak
from tima.bench.phases import Phases
from tima.bench.table import counted_passes, pass_rows, phase_rows, theory_passes
from tima.bench.towers import Tower
from tima.config import TrainRecipe
from tima.errors import ModelError, RecipeError


def test_a_tower_by_hand() -> None:
    t = Tower(layers=2, width=4, mlp=8, heads=2, tokens=3, out=5, patch=12)
    embedding = 2 * 2 * 12 * 4
    layer = 2 * 3 * (4 * 16 + 2 * 32)
    assert t.embedding == embedding and t.linear == embedding + 2 * layer + 2 * 4 * 5
    assert t.attention == 2 * (4 * 9 * 4) and t.forward == t.linear + t.attention
    assert t.backward_weights == 2 * t.linear - embedding + 2 * t.attention


@pytest.mark.parametrize("size", [16, 32])
def test_counts_of_clip_are_those_of_torch(tokenizer: Any, size: int) -> None:
    model = build_tiny_clip(tokenizer, image_size=size)
    texts = ["a photo of a cat", "a photo of a small tree"]
    counted = counted_text(model, texts)
    shape = shape_of(model, int(counted["tokens"]))
    assert shape is not None and shape.exact
    assert counted["forward"] == shape.text.forward
    for attention in ("eager", "sdpa"):
        model.use_attention(attention)
        found = counted_image(model)
        assert found["forward"] == shape.image.forward
        assert found["attention_share"] == pytest.approx(shape.image.attention / shape.image.forward)
    model.use_attention("eager")
    assert counted_image(model)["backward_input"] == shape.image.backward_input
    assert shape.image.parameters == sum(p.numel() for p in model.image_parameters().values())
    assert shape.text.parameters == sum(p.numel() for p in model.text_parameters().values())
    model.use_lean(torch.float32)
    lean = Tower(**{**shape.image.__dict__, "last_token_only": True})
    assert counted_image(model)["forward"] == lean.forward


def test_other_families_are_near_and_say_so(tokenizer: Any) -> None:
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    for model in (tiny_siglip(tokenizer, 16, **ids), tiny_two_tower(tokenizer, 64)):
        shape, found = shape_of(model), counted_image(model)
        assert found["forward"] > 0 and found["backward_input"] > 0
        if shape is not None:
            assert not shape.exact and 0.5 < found["forward"] / shape.image.forward < 2


def test_the_parts_sum_to_the_whole() -> None:
    now = [0.0]
    phases = Phases(lambda: now[0])
    phases.base("data")
    now[0] = 1
    with phases.inside("outer backward"):
        now[0] = 3
        phases.turn("outer backward", "text backward")
        now[0] = 6
    with pytest.raises(ValueError), phases.inside("attack rest"), phases.inside("attack forward"):
        now[0] = 10
        raise ValueError
    now[0] = 15
    found = {name: value for name, value in phases.take().items() if value}
    assert found == {"data": 1 + 5, "outer backward": 2, "text backward": 3, "attack forward": 4}
    assert sum(phases.take().values()) == 0


def test_peaks_are_sane() -> None:
    found = matmul_peak("fp32", sizes=(256, 512), tries=2)
    assert found["best"] == max(found["by_size"].values()) and 0.1 < found["best"] < 1e6


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    settings = BenchSettings(("random:tiny",), ("tima", "ft-clean"), ("fp32",), (4,), 2, 3, steps=1, repeats=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tima.bench.run.matmul_peak", lambda p, d, **w: {"best": 50.0, "by_size": {"9": 50.0}})
        patch.setattr("tima.bench.run.copy_speed", lambda d: 10.0)
        began = time.perf_counter()
        found = bench(settings)
        found["took"] = time.perf_counter() - began
    return found


def test_the_real_trainer_is_seen(record: dict[str, Any]) -> None:
    jobs = {job["job"]: job for job in record["jobs"]}
    assert set(jobs) == {"evaluation forward", "forward", "attack step", "train tima", "train ft-clean"}
    tima, clean = jobs["train tima"], jobs["train ft-clean"]
    # two steps of PGD and one more forward to keep the best; docs/method.md, cost of a step
    expected = {"attack forward": 3, "attack backward": 2, "outer forward": 1, "outer backward": 1, "teacher forward": 1}
    assert tima["passes"] == expected | {"texts": 3, "texts backward": 3}
    assert clean["passes"] == {"outer forward": 1, "outer backward": 1}
    assert (theory_passes(tima), counted_passes(tima)) == (2 * 2 + 3 + 1, 3 + 2 + 1 + 1 + 2)
    assert (theory_passes(clean), counted_passes(clean)) == (3, 3)
    forward = shape_named("tiny", 8).image.forward
    assert tima["flop"]["teacher"] == 4 * forward and tima["flop"]["attack forward"] == pytest.approx(12 * forward, rel=0.01)
    assert tima["seconds"]["median"] == pytest.approx(sum(times[0] for times in tima["phases"].values()))
    assert tima["seconds"]["median"] < record["took"] and all(times[0] >= 0 for times in tima["phases"].values())
    for name in ("data", "text forward", "text backward", "attack backward", "teacher", "optimiser"):
        assert tima["phases"][name][0] > 0, name
    assert clean["phases"]["attack forward"] == [0.0]


def test_a_step_ends_when_the_device_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    waited: list[str] = []
    monkeypatch.setattr(jobs, "wait", lambda device: waited.append(device.type))
    recipe = TrainRecipe(method="tecoa", model=str(write_random("random:tiny", tmp_path / "m")), batch_size=4, precision="fp32")
    jobs.TrainJob(recipe, 3, steps=2).time()
    assert waited == ["cpu"] * 3, "one that warms up, and two"


def test_the_tables_hold_it(record: dict[str, Any]) -> None:
    head, rows = phase_rows(record)
    assert len(rows) == 2 and all(sum(map(float, row[3:])) == pytest.approx(100, abs=1) for row in rows)
    assert [row[3:5] for row in pass_rows(record)[1]] == [["8", "9"], ["3", "3"]] and len(head) == 14


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"precisions": ("fp8",)}, RecipeError, "no precision 'fp8'"),
        ({"methods": ("zero-shot",)}, RecipeError, "trains nothing"),
        ({"repeats": 0}, RecipeError, "--repeats is too small"),
        ({"models": ("random:ViT-Z",)}, ModelError, "no geometry 'ViT-Z'"),
    ],
)
def test_refusals(changes: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tima.bench.run.matmul_peak", lambda p, d, **w: {"best": 1.0})
    monkeypatch.setattr("tima.bench.run.copy_speed", lambda d: 1.0)
    with pytest.raises(error, match=message):
        bench(BenchSettings(**changes))


@pytest.mark.parametrize("name", ["ViT-B-32@33", "ViT-B-32@x", "nano@48/0"])
def test_geometries_that_cannot_be(name: str) -> None:
    with pytest.raises(ModelError):
        find_geometry(name)
