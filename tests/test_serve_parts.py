"""The parts of the server by themselves: cache, batches, metrics, the plane of the texts, models, runs, the command."""

import asyncio
import math
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip, make_image_set
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="the extra tima[serve] is not installed")

from serving import client_of, make_app

from tima.errors import ModelError, TimaError
from tima.models import encode_classes
from tima.serve.jobs import Abandoned, Token
from tima.serve.metrics import Counter, Histogram, Metrics
from tima.serve.models import ServedModel, load_models, original_name, unique_id
from tima.serve.pictures import sniff
from tima.serve.projection import plane, text_views, turned
from tima.serve.runs import RunShelf, find_runs
from tima.serve.texts import TextCache


@pytest.fixture(scope="module")
def served(tokenizer: Any) -> ServedModel:
    return ServedModel("tiny", "Tiny", "for tests", build_tiny_clip(tokenizer).requires_grad_(False).eval())


# the cache of texts ------------------------------------------------------------------------------------------------


def test_texts_are_encoded_once_and_in_the_order_asked(served: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def counted(model: Any, names: list[str], templates: Any) -> torch.Tensor:
        encoded.extend(names)
        return encode_classes(model, names, templates)

    monkeypatch.setattr("tima.serve.texts.encode_classes", counted)
    cache, token, form = TextCache(3, Metrics()), Token(60), ["a photo of a {c}."]
    found = cache.embed(served, ["cat", "dog"], form, token)
    torch.testing.assert_close(found, encode_classes(served.encoder, ["cat", "dog"], form))
    swapped = cache.embed(served, ["dog", "tree", "cat"], form, token)
    assert encoded == ["cat", "dog", "tree"] and torch.equal(swapped[[2, 0]], found)
    cache.embed(served, ["cat"], ["a {c}"], token)  # another template is another text; "dog", used longest ago, goes
    assert len(cache) == 3 and encoded[-1] == "cat"
    cache.embed(served, ["tree"], form, token)
    assert len(encoded) == 4
    cache.embed(served, ["dog"], form, token)
    assert encoded[4:] == ["dog"] and len(cache) == 3
    assert not found.is_inference()  # attacks take gradients through products with it


def test_a_long_list_is_kept_whole_even_where_the_cache_is_small(served: ServedModel) -> None:
    cache, names = TextCache(2, Metrics()), [f"thing {i}" for i in range(40)]
    torch.testing.assert_close(
        cache.embed(served, names, ["{c}"], Token(60)), encode_classes(served.encoder, names, ["{c}"]), atol=1e-5, rtol=0
    )
    assert len(cache) == 2
    token = Token(60)
    token.stop()
    with pytest.raises(Abandoned):
        cache.embed(served, ["new"], ["{c}"], token)


# counting ----------------------------------------------------------------------------------------------------------


def test_metrics_by_hand() -> None:
    counter = Counter("c_total", "About.")
    counter.add(path='a"b\\c\nd')
    counter.add(2, path="x", code="200")
    counter.add(path="x", code="200")
    assert counter.lines() == ['c_total{code="200",path="x"} 3', 'c_total{path="a\\"b\\\\c\\nd"} 1']
    histogram = Histogram("h", "About.", (1, 2.5))
    for value in (0.5, 1, 2, 3):  # 1 lies on an edge, which belongs to its bucket
        histogram.observe(value)
    assert histogram.lines() == [
        'h_bucket{le="1"} 2',
        'h_bucket{le="2.5"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 6.5",
        "h_count 4",
    ]


# the plane ---------------------------------------------------------------------------------------------------------


def test_the_plane_shows_the_two_largest_variances() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 5)) * [3, 2, 1, 0.5, 0.1]
    points, explained = plane(rows)
    values = np.linalg.eigvalsh(np.cov(rows.T, bias=True))[::-1]
    np.testing.assert_allclose(points.var(0), values[:2], rtol=1e-9)
    assert explained == pytest.approx(values[:2].sum() / values.sum())
    assert abs(points[:, 0] @ points[:, 1]) < 1e-9 and np.abs(points.mean(0)).max() < 1e-9
    for column in points.T:  # signs do not depend on the linear algebra library
        assert column[np.abs(column).argmax()] > 0
    single, whole = plane(rows[:1])
    assert single.tolist() == [[0, 0]] and whole == 1


def test_a_plane_is_turned_onto_another() -> None:
    points = np.array([[1.0, 0], [0, 2], [-1, 1]])
    angle = 0.7
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    np.testing.assert_allclose(turned(points @ rotation, points), points, atol=1e-12)
    np.testing.assert_allclose(turned(points * [1, -1], points), points, atol=1e-12)  # mirrored


def test_models_of_different_width_get_planes_of_their_own() -> None:
    wide = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    views, same, explained = text_views([wide, torch.nn.functional.pad(wide, (0, 3))])
    assert not same and 0 < explained <= 1
    np.testing.assert_allclose(views[0].point_C2, views[1].point_C2, atol=1e-6)  # the same texts, zeros appended
    together, same, _ = text_views([wide, wide])
    assert same and np.array_equal(together[0].point_C2, together[1].point_C2)


# models and runs ---------------------------------------------------------------------------------------------------


def test_ids_are_short_plain_and_unique() -> None:
    assert unique_id("TIMA (demo/x)", []) == "tima-demo-x"
    assert unique_id("TIMA", ["tima", "tima-2"]) == "tima-3"
    assert unique_id("模型", []) == "model" and len(unique_id("a" * 99, [])) == 48


def test_formats_are_told_by_their_content() -> None:
    starts = [b"\x89PNG\r\n\x1a\n...", b"\xff\xd8\xff\xe0", b"RIFF0000WEBPVP8 ", b"RIFF0000AVI ", b"GIF89a", b""]
    assert [sniff(data) for data in starts] == ["PNG", "JPEG", "WEBP", None, None, None]


@pytest.fixture(scope="module")
def world(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`runs/original` and `runs/deep/trained`, both judged on the same toy set; `runs/broken`; the model `base`."""
    import json

    from tima.evaluate import evaluate
    from tima.protocols import load_protocol

    root = tmp_path_factory.mktemp("world")
    protocol = load_protocol("demo").override(samples=12, eps=["1/255", "8/255"], attack_params={"steps": 2})
    base = build_tiny_clip(tokenizer)
    base.save_pretrained(root / "base")
    for folder, seed in (("original", 0), ("deep/trained", 1)):
        model = build_tiny_clip(tokenizer, seed=seed)
        model.name = str(root / "base")
        evaluate(model, make_image_set(n=24), protocol, out=root / "runs" / folder, progress=False)
    trained = root / "runs" / "deep" / "trained"
    model.save_pretrained(trained / "model")
    summary = {"method": "tima", "model": str(root / "base"), "data": "toy", "eps": 4 / 255, "steps": 3, "seconds": 1.0}
    (trained / "summary.json").write_text(json.dumps(summary))
    (root / "runs" / "broken" / "results").mkdir(parents=True)
    (root / "runs" / "broken" / "results" / "x.json").write_text("{")
    (root / "runs" / "no run").mkdir()
    return root


def test_runs_are_found_and_a_broken_one_is_named(world: Path) -> None:
    runs, left_out = find_runs(world / "runs")
    assert [run.folder.name for run in runs] == ["original", "trained"] and [run.name for run in runs] == ["original", "TIMA"]
    assert len(left_out) == 1 and "broken" in left_out[0] and "JSON" in left_out[0]
    assert find_runs(None) == ([], [])
    with pytest.raises(TimaError, match="is no folder"):
        find_runs(world / "nowhere")


def test_models_are_named_after_their_runs(world: Path) -> None:
    runs, _ = find_runs(world / "runs")
    assert original_name(run for run in runs if run.trained) == str(world / "base") and original_name([]) == "nano"
    models = load_models(None, runs)
    assert list(models) == ["original", "tima"] and models["tima"].about.startswith("from ")
    base, trained = (models[key].encoder.encode_text(["a cat"]) for key in models)
    assert not torch.allclose(base, trained)
    torch.testing.assert_close(base, load_models([str(world / "base")], [])["base"].encoder.encode_text(["a cat"]))
    assert not any(p.requires_grad for p in models["tima"].encoder.parameters())
    with pytest.raises(ModelError, match="twice"):
        load_models(["nano", "nano"], [])
    with pytest.raises(ModelError, match="no model"):
        load_models([], [])


def test_charts_hold_the_stored_numbers_and_reports_are_made(world: Path) -> None:
    from tima.results import load_results

    runs, _ = find_runs(world / "runs")
    shelf = RunShelf(runs)
    (chart,) = shelf.listing()["charts"]
    assert chart["labels"] == ["clean", "1/255", "8/255"] and chart["eps"] == [0, 1 / 255, 8 / 255]
    (block,) = (block for block in chart["blocks"] if block["title"] == "toy")
    for row in block["rows"]:
        folder = next(entry.run.folder for entry in shelf.entries.values() if entry.id == row["run"])
        (stored,) = load_results(folder)
        expected = [(stored.clean.accuracy, *stored.clean.ci95), *((r.robust_accuracy, *r.ci95) for r in stored.robust)]
        assert [(p["value"], p["low"], p["high"]) for p in row["points"]] == expected and row["points"][0]["n"] == 12
    assert shelf.report("tima") is None
    shelf.make_reports()
    for key in ("all", "tima", "original"):
        page = shelf.report(key)
        assert page is not None and page.startswith(b"<!doctype html>") and b"toy" in page
    assert {run["report"] for run in shelf.listing()["runs"]} == {"ready"}


def test_the_end_waits_for_the_report_in_work_and_begins_no_other(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go, made = threading.Event(), threading.Event(), list[Path]()

    def slow(folders: list[Path], out: Path, title: str) -> Path:
        made.append(out)
        inside.set()
        go.wait(20)
        out.write_text("<!doctype html>")
        return out

    monkeypatch.setattr("tima.report.report", slow)
    shelf = RunShelf(find_runs(world / "runs")[0])
    shelf.start()
    assert inside.wait(20)
    shelf.stop(patience=0.05)
    assert shelf.report("all") is None, "its patience is bounded"
    threading.Timer(0.2, go.set).start()
    shelf.stop()
    assert shelf.report("all") == b"<!doctype html>" and len(made) == 1


def test_a_report_that_cannot_be_made_says_why(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise TimaError("the disk is full")

    monkeypatch.setattr("tima.report.report", fail)
    shelf = RunShelf(find_runs(world / "runs")[0])
    shelf.make_reports()
    with pytest.raises(TimaError, match="the disk is full"):
        shelf.report("tima")
    assert {run["report"] for run in shelf.listing()["runs"]} == {"failed"}


def test_reports_come_with_a_policy_of_their_own(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, go = make_app([str(world / "base")], world / "runs"), threading.Event()
    shelf = app.state.service.runs
    real = shelf.make_reports
    monkeypatch.setattr(shelf, "make_reports", lambda: (go.wait(20), real()))

    async def run() -> Any:
        async with client_of(app) as client:
            early = await client.get("/v1/runs/tima/report")
            go.set()
            while (await client.get("/v1/runs/tima/report")).status_code == 503:
                await asyncio.sleep(0.05)
            return early, await client.get("/v1/runs/tima/report"), await client.get("/v1/runs/all/report")

    early, late, together = asyncio.run(run())
    assert early.status_code == 503 and early.headers["retry-after"] and early.json()["where"] == "the report"
    policy = late.headers["content-security-policy"]
    assert (
        late.status_code == together.status_code == 200 and policy.startswith("default-src 'none'") and "script" not in policy
    )


# time --------------------------------------------------------------------------------------------------------------


def test_a_picture_whose_turn_does_not_come_in_time_is_given_up(served: ServedModel) -> None:
    from tima.serve.batcher import Batcher
    from tima.serve.limits import Limits
    from tima.serve.problems import Problem

    image, sizes = torch.zeros(3, 16, 16, dtype=torch.uint8), []

    async def run() -> None:
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(served, pool, Limits(), Metrics())
            real = batcher._embed

            def slow(images: list[torch.Tensor]) -> torch.Tensor:
                sizes.append(len(images))
                time.sleep(0.3)
                return real(images)

            batcher._embed = slow  # type: ignore[method-assign]
            batcher.start()
            first = asyncio.create_task(batcher.embed(image, Token(5)))
            await asyncio.sleep(0.1)
            with pytest.raises(Problem, match=r"longer than the 0\.1 s") as caught:
                await batcher.embed(image, Token(0.1))
            assert caught.value.status == 504 and (await first).shape == (24,)
            await batcher.embed(image, Token(5))
            assert sizes == [1, 1]  # nobody computed for the one that had given up
            waiting = asyncio.create_task(batcher.embed(image, Token(5)))
            await asyncio.sleep(0.05)
            await batcher.stop()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(run())


# the command -------------------------------------------------------------------------------------------------------


def test_the_command_starts_a_server(tokenizer: Any, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    from tima.cli import app

    started: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: started.update(options, app=app))
    words = ["serve", "--model", str(world / "base"), "--runs", str(world / "runs"), "--port", "8099", "--attack-seconds", "9"]
    result = CliRunner().invoke(app, [*words, "--room", "5"], catch_exceptions=False)
    assert result.exit_code == 0 and "http://localhost:8099" in result.output and "broken" in result.output
    assert (started["host"], started["port"]) == ("127.0.0.1", 8099) and started["timeout_graceful_shutdown"] >= 20
    limits = started["app"].state.service.limits
    assert (limits.classify_room, limits.attack_seconds) == (5, 9) and len(started["app"].state.service.samples) == 6
    result = CliRunner().invoke(app, ["serve", "--model", str(world / "base"), "--host", "0.0.0.0"], catch_exceptions=False)
    assert "no login" in result.output


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from tima.cli import app

    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(TimaError, match=r'pip install "tima\[serve\]"'):
        CliRunner().invoke(app, ["serve"], catch_exceptions=False)


def test_samples_are_pictures_of_their_class() -> None:
    from tima.data import find_data
    from tima.serve.samples import PICKED, load_samples

    samples = load_samples()
    assert list(samples) == [key for key, *_ in PICKED]
    for key, name, split, index in PICKED:
        sample, images = samples[key], find_data(name, split)
        assert sample.label == images.class_names[int(images.label_B[index])] and sample.label in sample.classes
        assert sniff(sample.data) in ("PNG", "WEBP", "JPEG") and 2 <= len(sample.classes) <= 14
        assert len(set(sample.classes)) == len(sample.classes) and "{c}" in sample.templates[0]
