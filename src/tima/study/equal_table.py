"""The section of a study's page that compares methods at equal clean accuracy."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tima.report.tables import Table
from tima.report.words import difference_text, listing, percent
from tima.study.document import Section
from tima.study.equal import ORIGINAL, Gap, families, gaps
from tima.study.lines import View
from tima.study.records import CLEAN
from tima.study.schema import parent

ABOUT = (
    "At no less clean accuracy than {name} has ({clean} %): every other method with the most robust of its measured points "
    "that are at least as clean, or of two points between which a coin decides at each image. A method's points are its row, "
    "its row's other settings and mixtures{ends}. Not corrected for the number of comparisons; seeds are averaged."
)
NOTE = (
    "Robust accuracy of {name} minus the other method's, in percentage points on the average of {sets} zero-shot sets, with a "
    "95 % bootstrap interval: images resampled within each set, points and coin chosen anew each time. The best of several "
    "points is taken by what was measured, which favours the other method. +∞: in such a "
    "resample it is never so clean. * leaves 0 out."
)
ALONE = "these ends alone"


def equal_sections(view: View, rows: Mapping[str, Any], wanted: Sequence[str]) -> list[Section]:
    """A table for each row in `wanted` that was judged on all zero-shot sets. None where the original was not: a method that is
    less clean than the row throughout would then have no point to be compared at."""
    columns = view.columns[1:]
    ends = [line for line in view.lines if rows[line.row]["method"] == ORIGINAL and view.average(line, CLEAN) is not None]
    if not view.zero_shot or not ends:
        return []
    text, tables = [], []
    for line in (line for row in wanted for line in view.lines if line.row == row):
        clean = view.average(line, CLEAN)
        if clean is None:
            continue
        found: dict[str, list[Gap] | None] = {}
        for name, lines in families(view, rows).items():
            if not any(parent(one.row, rows) == parent(line.row, rows) or one in ends for one in lines):
                found[name] = gaps(view, line, [*lines, *ends], columns)
        if not found:
            continue
        found[ALONE] = gaps(view, line, ends, columns)
        named = listing([*(one.name for one in ends), "one answer to everything"])
        text.append(ABOUT.format(name=line.name, clean=percent(clean.value), ends=f", and, for all of them, {named}"))
        text += [_said(line.name, column, i, found) for i, column in enumerate(columns)]
        cells = [
            [f"{line.name} − {name}", *(map(_cell, g) if g is not None else ["other images, or not all sets"] * len(columns))]  # noqa: RUF001
            for name, g in found.items()
        ]
        note = NOTE.format(name=line.name, sets=len(view.zero_shot))
        tables.append(Table(f"At the clean accuracy of {line.name}", ["methods", *columns], cells, note))
    return [Section(f"Equal clean accuracy under {view.label}", text=text, tables=tables)] if tables else []


def _said(row: str, column: str, number: int, found: Mapping[str, list[Gap] | None]) -> str:
    """Whose interval lies above 0, whose below, whose on both sides."""
    known = {name: g[number] for name, g in found.items() if g is not None and name != ALONE and math.isfinite(g[number].value)}
    better = [name for name, g in known.items() if g.low > 0]
    worse = [name for name, g in known.items() if g.high < 0]
    open_ = [name for name, g in known.items() if g.low <= 0 <= g.high]
    parts = [f"withstands more than {listing(better)}"] if better else []
    parts += [f"withstands less than {listing(worse)}"] if worse else []
    parts += [f"is not told from {listing(open_)}"] if open_ else []
    said = f"At {column}, {row} {listing(parts)}." if parts else f"At {column}, no other method judged the same images."
    alone = found[ALONE]
    if alone is not None and alone[number].low <= 0:
        said += " It is not shown to withstand more than the original and one answer to everything by a coin."
    return said


def _cell(found: Gap) -> str:
    if math.isinf(found.value):
        return "never so clean"
    star = " *" if found.low > 0 or found.high < 0 else ""
    value, low, high = (difference_text(x) for x in (found.value, found.low, found.high))
    return f"{value} ({low} to {high}){star}"
