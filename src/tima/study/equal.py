"""Robust accuracy at equal clean accuracy, which is what a method is worth where each trades one for the other.

Two models that take turns by a coin have clean and robust accuracies in between. So a method that was measured at several
points (settings of one row, mixtures with the original, the original itself, which is every method's end) can be had at any
clean accuracy between two of them, and no method needs to have been tuned to hit that of another.

Shapes: `S` seeds, `N` images, `V` distinct values of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tima.report.tables import Table
from tima.report.words import listing, percent
from tima.study.document import Section
from tima.study.lines import Line, View
from tima.study.records import CLEAN
from tima.study.schema import parent

RESAMPLES = 10_000
ORIGINAL = "zero-shot"
ABOUT = (
    "Each other method at the clean accuracy of {name} ({clean} %): the most robust of its measured points that keep at least "
    "as much, or of two of its points between which a coin decides at each image. A method's points are its row, its row's "
    "other settings and mixtures, and the original."
)
NOTE = (
    "Accuracy of {name} minus the other method's, in percentage points on the average of {sets} zero-shot sets, with a 95 % "
    "paired bootstrap interval over images, in which the coin's weight follows the clean accuracies. * leaves 0 out; not "
    "corrected for the number of comparisons."
)


@dataclass(frozen=True)
class Level:
    """What a method withstands at a clean accuracy. `line`: its point there, or the nearer of two between which a coin decides,
    along which robust accuracy changes by `slope` with each unit of clean accuracy."""

    robust: float
    line: Line
    slope: float = 0.0


@dataclass(frozen=True)
class Gap:
    """A difference of accuracies with its 95 % interval."""

    value: float
    low: float
    high: float


def families(view: View, rows: Mapping[str, Any]) -> dict[str, list[Line]]:
    """Row -> its lines and those of the rows that are this one in another setting. The original is a family of its own."""
    found: dict[str, list[Line]] = {}
    for line in view.lines:
        found.setdefault(parent(line.row, rows), []).append(line)
    return found


def level(view: View, lines: Sequence[Line], clean: float, column: str) -> Level | None:
    """The most robust that these lines are at no less than this clean accuracy; None where none of them reaches it."""
    known = []
    for line in lines:
        at_clean, at_eps = view.average(line, CLEAN), view.average(line, column)
        if at_clean is not None and at_eps is not None:
            known.append((at_clean.value, at_eps.value, line))
    found = [Level(robust, line) for c, robust, line in known if c >= clean]
    for c, robust, line in known:
        for lower, more, other in known:
            if lower < clean < c and more > robust:
                slope = (more - robust) / (lower - c)
                found.append(Level(robust + slope * (clean - c), line if c - clean <= clean - lower else other, slope))
    return max(found, key=lambda one: one.robust, default=None)


def gap(view: View, line: Line, against: Level, column: str, seed: int = 0) -> Gap | None:
    """`line` minus what the other method is at the same clean accuracy; None unless both judged the same images everywhere.

    An image counts with its robust outcome less `slope` times its clean one, so that the interval has the error of both
    clean accuracies in it.
    """
    rng, value, drawn_R = np.random.default_rng(seed), 0.0, np.zeros(RESAMPLES)
    for data in view.zero_shot:
        if len({r.images_sha256 for one in (line, against.line) for r in one.results(data, view.sha256)}) != 1:
            return None
        sides = []
        for one in (line, against.line):
            robust_SN, clean_SN = view.right(one, data, column), view.right(one, data, CLEAN)
            if robust_SN is None or clean_SN is None:
                return None
            sides.append(robust_SN.mean(0) - against.slope * clean_SN.mean(0))
        difference_N = sides[0] - sides[1]
        value_V, count_V = np.unique(difference_N, return_counts=True)
        n = len(difference_N)
        drawn_R += rng.multinomial(n, count_V / n, size=RESAMPLES) @ value_V / n
        value += float(difference_N.mean())
    low, high = np.quantile(drawn_R, [0.025, 0.975]) / len(view.zero_shot)
    return Gap(value / len(view.zero_shot), float(low), float(high))


def equal_sections(view: View, rows: Mapping[str, Any], wanted: Sequence[str]) -> list[Section]:
    """A table for each row in `wanted` that was judged on all sets."""
    if not view.zero_shot:
        return []
    grouped = families(view, rows)
    ends = [line for line in view.lines if rows[line.row]["method"] == ORIGINAL]
    text, tables = [], []
    for line in (line for row in wanted for line in view.lines if line.row == row):
        clean = view.average(line, CLEAN)
        if clean is None:
            continue
        found: dict[str, list[Gap | None]] = {}
        for row, lines in grouped.items():
            if row == parent(line.row, rows) or all(one in ends for one in lines):
                continue
            levels = [level(view, [*lines, *(e for e in ends if e not in lines)], clean.value, c) for c in view.columns[1:]]
            gaps = [None if at is None else gap(view, line, at, c) for at, c in zip(levels, view.columns[1:], strict=True)]
            found[lines[0].name] = gaps
        if not found:
            continue
        text.append(ABOUT.format(name=line.name, clean=percent(clean.value)))
        text += [
            _said(line, column, [gaps[i] for gaps in found.values()], list(found)) for i, column in enumerate(view.columns[1:])
        ]
        cells = [[f"{line.name} − {name}", *map(_cell, gaps)] for name, gaps in found.items()]  # noqa: RUF001 (a minus sign)
        note = NOTE.format(name=line.name, sets=len(view.zero_shot))
        tables.append(Table(f"At the clean accuracy of {line.name}", ["methods", *view.columns[1:]], cells, note))
    return [Section(f"Equal clean accuracy under {view.label}", text=text, tables=tables)] if tables else []


def _said(line: Line, column: str, gaps: Sequence[Gap | None], names: Sequence[str]) -> str:
    """Against whom it is shown to be better, against whom worse, against whom neither."""
    better = [name for name, g in zip(names, gaps, strict=True) if g is not None and g.low > 0]
    worse = [name for name, g in zip(names, gaps, strict=True) if g is not None and g.high < 0]
    open_ = [name for name, g in zip(names, gaps, strict=True) if g is not None and g.low <= 0 <= g.high]
    parts = [f"withstands more than {listing(better)}"] if better else []
    parts += [f"less than {listing(worse)}" if better else f"withstands less than {listing(worse)}"] if worse else []
    parts += [f"is not told from {listing(open_)}"] if open_ else []
    return (
        f"At {column}, {line.name} {listing(parts)}." if parts else f"At {column} there is nothing to compare {line.name} with."
    )


def _cell(found: Gap | None) -> str:
    if found is None:
        return ""
    star = " *" if found.low > 0 or found.high < 0 else ""
    value, low, high = (f"{100 * x:+.1f}".replace("-", "−") for x in (found.value, found.low, found.high))  # noqa: RUF001
    return f"{value} ({low} to {high}){star}"
