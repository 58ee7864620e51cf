"""Robust accuracy at equal clean accuracy: the best of a method's points or of two by a coin, with worked numbers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from studying import kept_run

from tima.study.equal import equal_sections, gap, level
from tima.study.fronts import front_svg
from tima.study.lines import Line, View
from tima.study.records import KeptRun, pack
from tima.study.schema import parent

ROWS = {
    "original": {"method": "zero-shot"},
    "x": {"method": "x"},
    "x-mixed": {"method": "x", "search": "x"},
    "y": {"method": "y"},
    "z": {"method": "z", "search": "x"},
}


def two_columns(row: str, clean: Sequence[int], robust: Sequence[int], seed: int = 0) -> KeptRun:
    """A run judged on one set, at no and at one eps."""
    run = kept_run(row, seed, {"a": list(clean)})
    found = run.results[0].model_copy(update={"right": {"clean": pack(list(clean)), "1/255": pack(list(robust))}})
    return run.model_copy(update={"results": [found]})


def first(k: int, n: int = 20) -> list[int]:
    return [1] * k + [0] * (n - k)


def equal_view(**of_row: tuple[int, int]) -> View:
    runs = {row.replace("_", "-"): two_columns(row, first(c), first(r)) for row, (c, r) in of_row.items()}
    lines = [Line(row, row, [run]) for row, run in runs.items()]
    return View({"name": "p", "version": 1}, "p", lines, ["a"], ["a"], [], [], ["clean", "1/255"])


def test_a_row_that_takes_over_anothers_search_with_its_method_belongs_to_it() -> None:
    assert [parent(row, ROWS) for row in ROWS] == ["original", "x", "x", "y", "z"]  # z is another method


@pytest.mark.parametrize(
    ("clean", "expected"),
    [
        (4, 0.6),  # less than any point has: the most robust point
        (8, 0.6),
        (10, 0.5),  # halfway between x at (8, 12) and x-mixed at (12, 8)
        (11, 0.45),
        (14, 0.3),  # between x-mixed at (12, 8) and the original at (16, 4)
        (16, 0.2),
        (17, None),
    ],
)
def test_a_method_is_between_its_points_by_a_coin(clean: int, expected: float | None) -> None:
    view = equal_view(x=(8, 12), x_mixed=(12, 8), original=(16, 4))
    found = level(view, view.lines, clean / 20, "1/255")
    assert found is None if expected is None else found is not None and found.robust == pytest.approx(expected)


def test_the_best_pair_of_points_is_taken_and_a_point_that_is_beaten_harms_nobody() -> None:
    view = equal_view(x=(8, 12), x_mixed=(12, 5), original=(16, 4))  # the mixture lies below the line of the two ends
    found = level(view, view.lines, 12 / 20, "1/255")
    assert found is not None and found.robust == pytest.approx(8 / 20) and found.line.row in ("x", "original")
    view = equal_view(x=(14, 9), x_mixed=(12, 5))  # cleaner and more robust at once
    found = level(view, view.lines, 12 / 20, "1/255")
    assert found is not None and (found.line.row, found.robust, found.slope) == ("x", 9 / 20, 0.0)


def test_a_gap_has_the_errors_of_clean_and_robust_accuracy() -> None:
    rng = np.random.default_rng(5)
    coin = lambda share: (rng.random(400) < share).astype(int).tolist()  # noqa: E731
    runs = {
        row: two_columns(row, coin(c), coin(r)) for row, c, r in (("y", 0.5, 0.3), ("x", 0.4, 0.35), ("original", 0.7, 0.1))
    }
    lines = [Line(row, row, [run]) for row, run in runs.items()]
    view = View({"name": "p", "version": 1}, "p", lines, ["a"], ["a"], [], [], ["clean", "1/255"])
    at = view.average(lines[0], "clean")
    assert at is not None
    against = level(view, lines[1:], at.value, "1/255")
    assert against is not None and against.line.row == "x"
    found, robust = gap(view, lines[0], against, "1/255"), view.average(lines[0], "1/255")
    assert found is not None and robust is not None
    assert found.value == pytest.approx(robust.value - against.robust)
    y, x = ([run.results[0].outcomes(c).astype(float) for c in ("clean", "1/255")] for run in (runs["y"], runs["x"]))
    image_N = (y[1] - against.slope * y[0]) - (x[1] - against.slope * x[0])
    drawn = [image_N[rng.integers(0, 400, 400)].mean() for _ in range(10_000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.005)
    other = runs["x"].model_copy(update={"results": [runs["x"].results[0].model_copy(update={"images_sha256": "others"})]})
    assert gap(view, lines[0], replace(against, line=Line("x", "x", [other])), "1/255") is None


def test_the_table_compares_with_every_other_method_and_says_what_is_shown() -> None:
    view = equal_view(y=(16, 16), x=(10, 12), x_mixed=(14, 6), original=(20, 0), z=(6, 0))
    sections = equal_sections(view, ROWS, ["y"])
    assert len(sections) == 1 and len(sections[0].tables) == 1
    table, text = sections[0].tables[0], " ".join(sections[0].text)
    assert [row[0] for row in table.rows] == ["y − x", "y − z"]  # noqa: RUF001 (not with the original, nor a mixture by itself)
    assert table.columns == ["methods", "1/255"]
    # x and the original by a coin at 16 / 20: 12 / 20 * 0.4; z never gets beyond the original's 0
    assert table.rows[0][1].startswith("+56.0 (") and table.rows[1][1].startswith("+80.0 (")
    assert "at 1/255, y withstands more than x and z." in text.lower() and "80.0 %" in text
    assert equal_sections(view, ROWS, []) == [] and equal_sections(view, ROWS, ["nobody"]) == []
    assert equal_sections(replace(view, zero_shot=[]), ROWS, ["y"]) == []


def test_a_figure_joins_a_methods_points_and_names_the_method_once() -> None:
    view = equal_view(x=(8, 12), x_mixed=(12, 6), y=(14, 10), original=(16, 4))
    svg = front_svg(view, "1/255", "k", ROWS)
    assert ">y<" in svg and ">x<" in svg and ">x-mixed<" not in svg
    beaten = equal_view(x=(8, 12), x_mixed=(15, 11), y=(14, 10), original=(16, 4))
    assert ">x-mixed<" in front_svg(beaten, "1/255", "k", ROWS)  # on the front it has a name
