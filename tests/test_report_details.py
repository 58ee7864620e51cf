"""What schema-2 results add to the report: health, shares, calibration, margins, classes, paired differences, formats."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_report import Page, write_run, write_stored
from typer.testing import CliRunner

from tima.analysis import margin_histogram
from tima.cli import app
from tima.errors import ResultError
from tima.report import markdown_table, report
from tima.report.compare import compare
from tima.report.details import health_table
from tima.report.latex import escape, latex
from tima.report.paired import paired
from tima.report.protocols import compare_protocols
from tima.report.runs import read_runs
from tima.report.text_tables import markdown
from tima.stats import mcnemar

SHARES = {"a": [0.5, 0.4, 0.3, 0.2, 0.1], "b": [0.5, 0.45, 0.4, 0.38, 0.1]}


def enrich(path: Path, *, suspicious: bool) -> None:
    """Fill what only version 2 of the schema has."""
    record: dict[str, Any] = json.loads(path.read_text())
    n, rows = record["n"], [record["clean"], *record["robust"]]
    margin = torch.stack([torch.linspace(6 - 2 * i, -6 - 2 * i, n) for i in range(len(rows))])
    for i, row in enumerate(rows):
        row |= {
            "ece": 0.125,
            "correct_per_class": [row["correct"] // 4] * 4,
            "margins": margin_histogram(margin[i]).model_dump(),
        }
    record |= {"class_counts": [n // 4] * 4, "margin_similarity": -0.25}
    sign = {"name": "zero_gradients", "value": 0.9, "limit": 0.1, "fired": suspicious, "note": "<quantised>"}
    for row in record["robust"]:
        verdict = "suspicious" if suspicious else "reliable"
        row["health"] = {"verdict": verdict, "reasons": ["zero gradients"] * suspicious, "indicators": [sign], "probe_n": 32}
        row["margin_similarity"] = -0.5
        row["attacks"][0] |= {"attacked": 80, "forwards": 1234, "backwards": 567, "wall_time_s": 2.0}
    path.write_text(json.dumps(record))
    tensors = load_file(path.with_suffix(".safetensors"))
    save_file(tensors | {"margin_EN": margin}, path.with_suffix(".safetensors"))


@pytest.fixture
def rich(tmp_path: Path) -> list[Path]:
    runs = [write_run(tmp_path / name, "tima", {"cifar10": shares, "groceries": shares}) for name, shares in SHARES.items()]
    for number, run in enumerate(runs):
        for path in (run / "results").glob("*.json"):
            enrich(path, suspicious=number == 1 and path.name.startswith("cifar10"))
    return runs


def test_page_shows_what_lies_behind(rich: list[Path], tmp_path: Path) -> None:
    page = Page(report(rich, tmp_path / "r.html"))
    marks = [a for a in page.of("span") if str(a.get("class", "")).startswith("health")]
    # 4 eps of 2 sets and the average, for 2 runs; the average over a suspicious set is suspicious
    assert len(marks) == 24 and sum("suspicious" in str(a["class"]) for a in marks) == 8
    assert any("cifar10: zero gradients" in str(a["title"]) for a in marks)
    for words in ("<quantised>", "1,234", "12.5", "-0.25", "4 fired", "6.00 ± 0.00"):
        assert words in page.text or words in page.source, words
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)) and len(page.of("caption")) == len(page.of("table"))


def test_differences_are_mcnemars_with_holm(rich: list[Path], tmp_path: Path) -> None:
    (comparison,) = compare(read_runs(rich))
    found = paired(comparison)
    assert len(found.differences) == 15 and not found.skipped
    (one,) = [d for d in found.differences if (d.data, d.column) == ("cifar10", "4/255")]
    expected = mcnemar(torch.arange(200) < 40, torch.arange(200) < 76)
    assert one.p == pytest.approx(expected) and one.difference == pytest.approx(-0.18) and one.significant
    assert one.p <= one.p_holm <= 15 * one.p
    values = json.loads(report(rich, tmp_path / "r.html").with_suffix(".json").read_text())
    assert len(values["protocols"][0]["differences"]) == 15
    assert (tmp_path / "r.differences.csv").read_text().count("\n") == 16


def test_other_images_are_never_compared(rich: list[Path]) -> None:
    path = next((rich[1] / "results").glob("cifar10*.safetensors"))
    tensors = load_file(path)
    save_file(tensors | {"index_N": tensors["index_N"] + 1}, path)
    (comparison,) = compare(read_runs(rich))
    found = paired(comparison)
    assert {d.data for d in found.differences} == {"groceries"} and "different images" in found.skipped[0]


@pytest.mark.parametrize("field", ["class_names", "templates"])
def test_other_questions_are_never_compared(rich: list[Path], field: str) -> None:
    path = rich[1] / "results" / next((rich[1] / "results").glob("cifar10*.json")).name
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {field: [f"{text} else" for text in record[field]]}))
    (comparison,) = compare(read_runs(rich))
    found = paired(comparison)
    assert {d.data for d in found.differences} == {"groceries"} and "other class names or prompts" in found.skipped[0]


def test_latex_is_escaped_and_balanced(rich: list[Path]) -> None:
    assert escape("a_b & 5%{\\}") == r"a\_b \& 5\%\{\textbackslash{}\}"
    text = latex(compare(read_runs(rich)))
    assert text.count("\\toprule") == text.count("\\bottomrule") == 1 and "$^\\dagger$" in text and "⚠" not in text
    assert all(line.count(" & ") == 6 for line in text.splitlines() if line.endswith("\\\\"))


@pytest.mark.parametrize(("probe", "said"), [(15, "the smallest probe held 15 right images"), (16, "")])
def test_a_small_probe_is_said(rich: list[Path], probe: int, said: str) -> None:
    path = next((rich[0] / "results").glob("cifar10*.json"))
    record = json.loads(path.read_text())
    record["robust"][1]["health"]["probe_n"] = probe
    path.write_text(json.dumps(record))
    text = markdown_table(rich)
    assert ("smallest probe" in text) == bool(said) and said in text


def test_what_was_not_measured_is_not_called_quiet(rich: list[Path]) -> None:
    path = next((rich[0] / "results").glob("cifar10*.json"))
    record = json.loads(path.read_text())
    blank = {"name": "transfer", "value": None, "limit": None, "fired": False, "note": "not measured: no reference model"}
    for row in record["robust"]:
        row["health"]["indicators"] = [blank, {**blank, "fired": True, "note": "transfer could not be measured: NaN"}]
    path.write_text(json.dumps(record))
    (run,) = read_runs([rich[0]])
    (stored,) = [s for s in run.results if s.record.dataset == "cifar10"]
    table = health_table([(run, stored)])
    assert table is not None
    assert table.rows[0][2:] == ["transfer", "not measured", "", "", "no reference model"]
    assert table.rows[1][2:] == ["transfer", "⚠ fired", "", "", "transfer could not be measured: NaN"]


def test_markdown_says_health_and_time(rich: list[Path]) -> None:
    text = markdown_table(rich)
    assert "suspicious for 4 of 16 robust numbers" in text and "The evaluation took 25 s for TIMA (a) and 25 s" in text


def test_protocols_of_the_same_weights_in_one_table(rich: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="one protocol only"):
        compare_protocols(rich[0])
    path = write_stored(rich[0], "cifar10", [0.5, 0.45], eps="4/255")
    (comparison,) = compare_protocols(rich[0])
    assert [run.name for run in comparison.runs] == ["custom@1", "demo@1"]
    assert "25.0 at 4/255" in comparison.data_sets[0].warnings[0]  # 45 % and 20 %
    text = markdown([comparison], [])  # rows are protocols, and none of them is said to be the better model
    assert "| data | protocol |" in text and " still classif" not in text
    out = tmp_path / "p.tex"
    done = CliRunner().invoke(app, ["report", "--compare-protocols", str(rich[0]), "--format", "latex", "--out", str(out)])
    assert done.exit_code == 0 and "custom@1" in out.read_text()
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"checkpoint_sha256": "cd" * 32}))
    with pytest.raises(ResultError, match="different weights"):
        compare_protocols(rich[0])


def test_a_table_is_asked_for_by_the_name_of_its_file(rich: list[Path], tmp_path: Path) -> None:
    names = [str(run) for run in rich]
    for suffix, sign in (
        (".md", "| data | model |"),
        (".csv", "protocol,"),
        (".tex", "\\begin{table}"),
        (".html", "<!doctype"),
    ):
        done = CliRunner().invoke(app, ["report", *names, "--out", str(tmp_path / f"t{suffix}")])
        assert done.exit_code == 0 and sign in (tmp_path / f"t{suffix}").read_text(), suffix
        assert ("<!doctype" in (tmp_path / f"t{suffix}").read_text()) == (suffix == ".html")
    with pytest.raises(ResultError, match="would be the page and one of its tables at once"):
        report(rich, tmp_path / "other.md")
    assert not list(tmp_path.glob("other*"))
