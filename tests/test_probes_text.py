"""Edits of class names stay within their budget; the probe; the commands."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import build_tiny_clip, make_image_set, write_image_folder
from test_probes_retrieval import caption_parquet
from typer.testing import CliRunner

from tima.cli import app
from tima.errors import RecipeError, ResultError
from tima.probes.edits import EDITS, acceptable, edit_once, variants
from tima.probes.record import Row, read_probe
from tima.probes.text import probe_text, right_with


def distance(a: str, b: str) -> int:
    """Damerau-Levenshtein distance, unrestricted (Lowrance & Wagner 1975), by its definition."""
    last: dict[str, int] = {}
    big = len(a) + len(b)
    d = {(-1, -1): big}
    for i in range(len(a) + 1):
        d[i, -1], d[i, 0] = big, i
    for j in range(len(b) + 1):
        d[-1, j], d[0, j] = big, j
    for i in range(1, len(a) + 1):
        before = 0
        for j in range(1, len(b) + 1):
            k, m = last.get(b[j - 1], 0), before
            same = a[i - 1] == b[j - 1]
            if same:
                before = j
            d[i, j] = min(
                d[i - 1, j - 1] + (not same), d[i, j - 1] + 1, d[i - 1, j] + 1, d[k - 1, m - 1] + (i - k - 1) + 1 + (j - m - 1)
            )
        last[a[i - 1]] = i
    return d[len(a), len(b)]


def test_the_distance_itself() -> None:
    assert [distance(*p) for p in (("ca", "abc"), ("kitten", "sitting"), ("abcd", "abdc"), ("a", "a"))] == [2, 3, 1, 0]


@pytest.mark.parametrize(("budget", "edit"), list(itertools.product([1, 2, 3], [*EDITS, None])))
def test_edits_stay_within_the_budget_and_repeat(budget: int, edit: str | None) -> None:
    edits = (edit,) if edit else EDITS
    found = variants("acoustic guitar", budget, 30, np.random.default_rng(0), edits=edits)
    assert len(found) == len(set(found)) > 5
    assert all(1 <= distance("acoustic guitar", name) <= budget for name in found)
    assert found == variants("acoustic guitar", budget, 30, np.random.default_rng(0), edits=edits)
    assert found != variants("acoustic guitar", budget, 30, np.random.default_rng(1), edits=edits)


@pytest.mark.parametrize(("edit", "growth"), [("swap", 0), ("insert", 1), ("delete", -1), ("substitute", 0)])
def test_each_edit_does_what_it_says(edit: str, growth: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        out = edit_once("table", rng, (edit,))
        assert len(out) == 5 + growth
        assert (sorted(out) == sorted("table")) or edit != "swap"


def test_another_class_is_no_typo() -> None:
    assert not acceptable("Cart", "car", ["cart", "dog"]) and acceptable("catr", "car", ["cart"])
    assert not acceptable(" ", "a", []) and not acceptable("CAR", "car", [])


def test_accuracy_with_one_text_changed_is_that_of_the_changed_head() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text, other = (F.normalize(torch.randn(n, 6, generator=generator), dim=-1) for n in (50, 4, 3))
    label = torch.randint(0, 4, (50,), generator=generator)
    for c in range(4):
        got = right_with(image, text, label, c, other)
        for v in range(3):
            changed = text.clone()
            changed[c] = other[v]
            assert got[v].tolist() == ((image @ changed.T).argmax(1) == label).tolist()


@pytest.mark.parametrize("search", ["random", "greedy"])
def test_probe_of_the_text_tower(tiny_clip, toy_set, tokenizer, search: str) -> None:  # type: ignore[no-untyped-def]
    words = dict(budget=2, tries=8, search=search, reference=build_tiny_clip(tokenizer, seed=5))
    found = probe_text(tiny_clip, toy_set, **words)
    for group in ("model", "reference"):
        clean = found.find("accuracy, names as they are", group=group)
        assert found.find("accuracy, one name edited (worst)", group=group).n == clean.n == 24
        one = found.find("accuracy, one name edited (mean)", group=group).value
        assert found.find("accuracy, one name edited (worst)", group=group).value <= one + 1e-6
        assert found.find("similarity drop, worst name", group=group).value > 0
        edited = found.details[group]["edited"]
        assert all(1 <= distance(a, b) <= 2 for a, b in zip(toy_set.class_names, edited, strict=True))
    again = probe_text(tiny_clip, toy_set, **words)
    assert again.rows == found.rows and again.details == found.details
    assert found.settings["reference_sha256"] != found.checkpoint_sha256
    with pytest.raises(RecipeError, match="no edit rotate"):
        probe_text(tiny_clip, toy_set, edits=["rotate"])


def test_more_tries_never_leave_a_class_more_accurate(tiny_clip, toy_set) -> None:  # type: ignore[no-untyped-def]
    few, many = (probe_text(tiny_clip, toy_set, tries=n).find("accuracy, one name edited (worst)").value for n in (2, 40))
    assert many <= few


def test_a_row_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    row = Row.share("x", [True, True, False, False])
    assert (row.correct, row.n, row.value) == (2, 4, 0.5)
    assert (row.low, row.high) == pytest.approx((0.1500, 0.8500), abs=1e-4)  # Wilson by hand: 0.5 +- 0.35
    with pytest.raises(ValueError, match="2 of 4"):
        Row(**{**row.model_dump(), "value": 0.6})
    (tmp_path / "bad.json").write_text('{"schema": "tima-probe/1"}')
    with pytest.raises(ResultError, match="no probe result"):
        read_probe(tmp_path / "bad.json")


@pytest.mark.parametrize("probe", ["retrieval", "targeted", "text", "corruptions"])
def test_the_commands_write_what_they_show(tokenizer, tmp_path: Path, probe: str) -> None:  # type: ignore[no-untyped-def]
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    write_image_folder(make_image_set(n=8, classes=4), tmp_path / "toy")
    data = caption_parquet(tmp_path / "pairs.parquet") if probe == "retrieval" else tmp_path / "toy"
    extra = {
        "retrieval": ["--eps", "4/255", "--steps", "2"],
        "targeted": ["--eps", "1/255,4/255", "--steps", "2"],
        "text": ["--tries", "4", "--reference", str(tmp_path / "model")],
        "corruptions": ["--only", "fog,contrast", "--severities", "1,5"],
    }[probe]
    out = tmp_path / "out" / "probe.json"
    words = ["probe", probe, "--model", str(tmp_path / "model"), "--data", str(data), "--out", str(out), "-q", *extra]
    shown = CliRunner().invoke(app, words, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    kept = json.loads(out.read_text())
    assert kept["schema"] == "tima-probe/1" and kept["probe"] == probe and len(kept["checkpoint_sha256"]) == 64
    assert kept["versions"]["torch"] == torch.__version__.split("+")[0] or kept["versions"]["torch"] == torch.__version__
    assert probe in shown.output and f"{100 * kept['rows'][0]['value']:.1f}" in shown.output
    assert read_probe(out).rows
