"""Parts of the page: the front, bars over all data sets, verdicts, rows without numbers, the list of contents."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import Page, write_run, write_stored

from tima.report import report
from tima.report.compare import compare
from tima.report.comparison import Block, Cell
from tima.report.page import spans
from tima.report.pareto import fronts_of, pareto
from tima.report.runs import read_runs
from tima.report.verdicts import verdict_words
from tima.results import Health


def block_of(points: list[list[float | None]]) -> Block:
    return Block("x", "", [[Cell(v, v, v) if v is not None else Cell(note="missing") for v in row] for row in points])


def test_the_front_is_what_no_other_run_beats() -> None:
    points = np.random.default_rng(3).integers(0, 6, (40, 2)) / 5
    (found,) = fronts_of(block_of(points.tolist()))
    # slow and by another route: a point is off the front if the box right of and above it holds another point
    off = {
        i for i, j in itertools.permutations(range(40), 2) if (points[j] >= points[i]).all() and (points[j] > points[i]).any()
    }
    assert found == sorted(set(range(40)) - off) and 0 < len(found) < 40


def test_ties_are_both_on_the_front_and_missing_numbers_are_on_none() -> None:
    assert fronts_of(block_of([[0.5, 0.3], [0.5, 0.3], [0.5, 0.2], [0.9, None], [None, 0.9]])) == [[0, 1]]


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    scores = {"original": [0.6, 0.2, 0.1, 0.0, 0.0], "tecoa": [0.4, 0.35, 0.3, 0.2, 0.1], "tima": [0.5, 0.45, 0.4, 0.2, 0.05]}
    return [write_run(tmp_path / m, None if m == "original" else m, {"cifar10": s}) for m, s in scores.items()]


def test_the_trade_off_is_drawn_said_and_tabled(three: list[Path], tmp_path: Path) -> None:
    (comparison,) = compare(read_runs(three))
    found = pareto(comparison, "p")
    assert found is not None and [eps for eps, _ in found.figures] == ["1/255", "2/255", "4/255", "8/255"]
    assert found.fronts == [[0, 2], [0, 2], [0, 2], [0, 1, 2]]  # TIMA beats TeCoA in both until 8/255
    rows = {row[0]: row[1:] for row in found.table.rows}
    assert rows["TeCoA"][4].endswith("● front") and not rows["TeCoA"][1].endswith("front")
    assert rows["TIMA"][1].startswith("45.0 (38.3–51.9)")  # noqa: RUF001 (Wilson for 90 of 200, worked out apart)
    page = Page(report(three, tmp_path / "r.html"))
    (alt,) = [str(a["aria-label"]) for a in page.of("svg") if "against attacked accuracy at 1/255" in str(a.get("aria-label"))]
    assert "TeCoA clean 40.0 %, attacked 35.0 %" in alt and alt.endswith("On the front: original and TIMA.")
    fronts = json.loads((tmp_path / "r.json").read_text())["protocols"][0]["fronts"]
    assert next(f["runs"] for f in fronts if f["data"] == "cifar10") == ["original", "tima"]


def test_one_run_makes_no_trade_off(three: list[Path], tmp_path: Path) -> None:
    (comparison,) = compare(read_runs(three[:1]))
    assert pareto(comparison, "p") is None
    assert "Clean against robust" not in Page(report(three[:1], tmp_path / "r.html")).text


def test_many_runs_carry_their_row_number(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"r{i}", "tima", {"cifar10": [0.3 + 0.02 * i, 0.3 - 0.02 * i]}, eps="4/255") for i in range(9)
    ]
    (comparison,) = compare(read_runs(folders))
    found = pareto(comparison, "p")
    assert found is not None and found.table.rows[8][0].startswith("9. TIMA")
    svg = found.figures[0][1]
    assert all(re.search(rf">{number}</text>", svg) for number in range(1, 10))


def test_bars_stand_for_every_data_set_and_say_what_is_missing(three: list[Path], tmp_path: Path) -> None:
    alone = Page(report(three, tmp_path / "one.html")).text
    assert "All data sets at a glance" not in alone, "one data set needs no overview"
    for run in three[:2]:
        write_stored(run, "groceries", [0.5, 0.2, 0.1, 0.05, 0.0])
    page = Page(report(three, tmp_path / "two.html"))
    labels = [str(a["aria-label"]) for a in page.of("svg") if str(a.get("aria-label")).startswith("Accuracy on each data set")]
    assert [label.split(".")[0] for label in labels] == ["Accuracy on each data set, clean", "Accuracy on each data set, 4/255"]
    assert "cifar10: original 60.0 %, TeCoA 40.0 %, TIMA 50.0 %" in labels[0]
    assert "groceries: original 5.0 %, TeCoA 5.0 %, TIMA missing" in labels[1]


def cell(verdict: str | None, probed: int = 64, *reasons: str) -> Cell:
    health: Any = None if verdict is None else Health(verdict=verdict, reasons=list(reasons), probe_n=probed)
    return Cell(0.5, 0.4, 0.6, health=health)


def test_verdicts_in_words() -> None:
    eps = ["1/255", "2/255"]
    assert verdict_words([cell(None), cell(None)], eps) == "no verdict"
    assert verdict_words([cell("reliable"), cell("reliable", 20)], eps) == "✓ reliable, 20 images probed"
    assert verdict_words([cell("reliable", 1), cell(None)], eps) == "✓ reliable at 1/255, 1 image probed (few)"
    doubtful = [cell("suspicious", 64, "flat gradient"), cell("suspicious", 64, "flat gradient", "more steps help")]
    assert verdict_words(doubtful, eps) == "⚠ suspicious at 1/255 and 2/255: flat gradient; more steps help"
    assert verdict_words([cell("reliable"), doubtful[1]], eps).startswith("⚠ suspicious at 2/255:")


def test_the_verdicts_stand_on_the_page(three: list[Path], tmp_path: Path) -> None:
    assert "Can the attacks be believed?" not in Page(report(three, tmp_path / "none.html")).text
    path = next((three[2] / "results").glob("cifar10*.json"))
    record = json.loads(path.read_text())
    record["robust"][1]["health"] = {"verdict": "suspicious", "reasons": ["flat gradient"], "probe_n": 64}
    path.write_text(json.dumps(record))
    text = Page(report(three, tmp_path / "r.html")).text
    assert "Can the attacks be believed?" in text and "⚠ suspicious at 2/255: flat gradient" in text


def test_neighbours_without_a_number_say_why_once() -> None:
    row = [Cell(0.5), Cell(note="missing"), Cell(note="missing"), Cell(note="unfinished"), Cell(0.1), Cell(0.1)]
    assert [(column, width, c.note) for column, width, c in spans(row)] == [
        (0, 1, ""), (1, 2, "missing"), (3, 1, "unfinished"), (4, 1, ""), (5, 1, ""),
    ]  # fmt: skip


def test_the_list_of_contents_leads_to_every_heading(three: list[Path], tmp_path: Path) -> None:
    write_stored(three[0], "cifar10", [0.9, 0.9], eps="4/255")  # a second protocol
    page = Page(report(three, tmp_path / "r.html"))
    targets = [str(a["href"])[1:] for a in page.of("a") if a.get("href") != "#results"]
    assert targets == [a["id"] for a in page.of("h2")] and len(targets) == len(set(targets))
    names = [a["data-name"] for a in page.of("details")]
    assert len(names) == len(set(names)), "what is unfolded is remembered by name"
