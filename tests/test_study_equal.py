"""Robust accuracy at equal clean accuracy: the best of a method's points or of two by a coin, with worked numbers."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from studying import kept_run

from tima.study.equal import families, gaps, level
from tima.study.equal_table import equal_sections
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
        (4, 12),  # less than any point has: the most robust point
        (8, 12),
        (10, 10),  # halfway between (8, 12) and (12, 8)
        (11, 9),
        (14, 6),  # between (12, 8) and the original at (16, 4)
        (16, 4),
        (17, -np.inf),
    ],
)
def test_a_method_is_between_its_points_by_a_coin(clean: float, expected: float) -> None:
    found = level(np.array([[8.0], [12.0], [16.0]]), np.array([[12.0], [8.0], [4.0]]), np.array([clean]))
    assert found == pytest.approx([expected])


def test_the_best_pair_of_points_is_taken_and_a_point_that_is_beaten_harms_nobody() -> None:
    # the mixture (12, 5) lies below the line of the two ends; in the second resample it lies above; in the third it beats both
    clean, robust = np.array([[8.0] * 3, [12.0] * 3, [16.0] * 3]), np.array([[12.0] * 3, [5.0, 11.0, 13.0], [4.0] * 3])
    assert level(clean, robust, np.array([12.0] * 3)).tolist() == [8, 11, 13]
    assert level(clean, robust, np.array([10.0] * 3)).tolist() == [10, 11.5, 13]


def test_a_gap_is_worked_out_anew_in_each_resample() -> None:
    rng = np.random.default_rng(5)
    coin = lambda share: (rng.random(300) < share).astype(int).tolist()  # noqa: E731
    wanted = (("y", 0.5, 0.3), ("x", 0.4, 0.35), ("original", 0.7, 0.1))
    runs = {row: two_columns(row, coin(c), coin(r)) for row, c, r in wanted}
    lines = [Line(row, row, [run]) for row, run in runs.items()]
    view = View({"name": "p", "version": 1}, "p", lines, ["a"], ["a"], [], [], ["clean", "1/255"])
    (found,) = gaps(view, lines[0], lines[1:], ["1/255"]) or []
    outcome = {row: np.array([run.results[0].outcomes(c) for c in ("clean", "1/255")], float) for row, run in runs.items()}

    share_T = np.linspace(0, 1, 1001)

    def by_hand(images: np.ndarray) -> float:
        """Every coin between any two of the three points that are free to it, tried in steps of a thousandth."""
        y, x, original = (outcome[row][:, images].mean(1) for row in ("y", "x", "original"))
        best = -np.inf
        for p, q in itertools.combinations([x, original, np.array([0.5, 0.5])], 2):
            mixed_T2 = share_T[:, None] * p + (1 - share_T)[:, None] * q
            best = max(best, mixed_T2[mixed_T2[:, 0] >= y[0] - 1e-9, 1].max(initial=-np.inf))
        return float(y[1] - best)

    assert found.value == pytest.approx(by_hand(np.arange(300)), abs=1e-3)
    drawn = [by_hand(rng.integers(0, 300, 300)) for _ in range(3000)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)
    other = runs["x"].model_copy(update={"results": [runs["x"].results[0].model_copy(update={"images_sha256": "others"})]})
    assert gaps(view, lines[0], [Line("x", "x", [other])], ["1/255"]) is None


def test_a_method_that_is_cleaner_throughout_is_let_down_by_answering_the_same() -> None:
    """One answer to everything is right for half of these two classes, attacked or not; a coin with it costs clean accuracy."""
    view = equal_view(y=(14, 8), x=(18, 4))
    (found,) = gaps(view, view.lines[0], view.lines[1:], ["1/255"]) or []
    assert found.value == pytest.approx(8 / 20 - (4 / 20 + 0.5 * (0.5 - 4 / 20)))  # halfway from (18, 4) to (10, 10)


def test_the_table_compares_with_every_other_method_and_says_what_is_shown() -> None:
    view = equal_view(y=(18, 18), x=(12, 14), x_mixed=(14, 6), original=(20, 0), z=(6, 0))
    sections = equal_sections(view, ROWS, ["y"])
    assert len(sections) == 1 and len(sections[0].tables) == 1
    table, text = sections[0].tables[0], " ".join(sections[0].text)
    assert [row[0] for row in table.rows] == ["y − x", "y − z", "y − these ends alone"]  # noqa: RUF001
    assert table.columns == ["methods", "1/255"]
    # x and the original by a coin at 18 / 20: a quarter of 14 / 20; z no better than the ends: a fifth of 10 / 20
    assert [row[1].split(" ")[0] for row in table.rows] == ["+72.5", "+80.0", "+80.0"]
    assert "At 1/255, y withstands more than x and z." in text and "90.0 %" in text
    assert "for all of them, original and one answer to everything" in text
    assert equal_sections(view, ROWS, []) == [] and equal_sections(view, ROWS, ["nobody"]) == []
    assert equal_sections(replace(view, zero_shot=[]), ROWS, ["y"]) == []


def test_what_cannot_be_compared_says_so() -> None:
    view = equal_view(y=(16, 16), x=(10, 12), original=(20, 0))
    other = view.lines[1].runs[0].results[0].model_copy(update={"images_sha256": "others"})
    lines = [view.lines[0], replace(view.lines[1], runs=[view.lines[1].runs[0].model_copy(update={"results": [other]})])]
    lines.append(view.lines[2])
    (section,) = equal_sections(replace(view, lines=lines), ROWS, ["y"])
    assert section.tables[0].rows[0][1] == "other images, or not all sets"
    assert "At 1/255, no other method judged the same images." in " ".join(section.text)
    assert "these ends alone" in section.tables[0].rows[1][0]
    assert equal_sections(equal_view(y=(16, 16), x=(10, 12)), ROWS, ["y"]) == []  # no end that is as clean
    (cleaner,) = equal_sections(equal_view(y=(20, 16), x=(10, 12), original=(19, 0)), ROWS, ["y"])
    assert cleaner.tables[0].rows[0][1] == "never so clean"


def test_rows_at_several_training_eps_are_methods_of_their_own() -> None:
    view = equal_view(x=(8, 12), x_mixed=(12, 8))
    far = replace(view.lines[1], runs=[view.lines[1].runs[0].model_copy(update={"eps": "8/255"})])
    assert families(view, ROWS) == {"x": view.lines}
    assert [len(lines) for lines in families(replace(view, lines=[view.lines[0], far]), ROWS).values()] == [1, 1]


def test_a_figure_joins_a_methods_points_and_names_the_method_once() -> None:
    view = equal_view(x=(8, 12), x_mixed=(12, 6), y=(14, 10), original=(16, 4))
    svg = front_svg(view, "1/255", "k", ROWS)
    assert ">y<" in svg and ">x<" in svg and ">x-mixed<" not in svg
    beaten = equal_view(x=(8, 12), x_mixed=(15, 11), y=(14, 10), original=(16, 4))
    assert ">x-mixed<" in front_svg(beaten, "1/255", "k", ROWS)  # on the front it has a name
