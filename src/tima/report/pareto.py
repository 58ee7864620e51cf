"""Clean against robust accuracy: one small figure for each eps, the runs' intervals as bars, and the front drawn.

A run is on the front when no other is at least as accurate on both counts and better on one. Point estimates decide, so a
run whose intervals reach over the front may as well be on it; the page says so.
"""

from dataclasses import dataclass

from tima.report.comparison import Block, Cell, Comparison
from tima.report.svg import INK, MARKERS, SERIES, new_figure, slot, to_svg
from tima.report.tables import Table
from tima.report.words import interval, listing, percent

DISTINCT = len(SERIES)  # more runs than this share colours, so their points also carry the number of their row


@dataclass(frozen=True)
class Pareto:
    """`block`: what is plotted; `figures`: (eps, SVG); `table`: the same in numbers; `fronts`: rows on it, for each eps."""

    block: Block
    figures: list[tuple[str, str]]
    table: Table
    fronts: list[list[int]]


def pareto(comparison: Comparison, key: str) -> Pareto | None:
    """The trade-off on the headline block; None with fewer than two runs to compare at any eps."""
    if not comparison.blocks:
        return None
    block = comparison.best_block()
    fronts = fronts_of(block)
    counts = [len(_points(block, column)) for column in range(1, len(comparison.columns))]
    if max(counts, default=0) < 2:
        return None
    figures = [
        (comparison.columns[column], _figure(comparison, block, column, fronts[column - 1], f"{key}-{column}"))
        for column in range(1, len(comparison.columns))
        if counts[column - 1] > 1
    ]
    return Pareto(block, figures, _table(comparison, block, fronts), fronts)


def fronts_of(block: Block) -> list[list[int]]:
    """For each attacked column the rows that no other row beats on clean and robust accuracy together."""
    found = []
    for column in range(1, len(block.cells[0]) if block.cells else 0):
        points = {row: (clean.value or 0.0, robust.value or 0.0) for row, clean, robust in _points(block, column)}
        found.append([row for row, point in points.items() if not any(_beats(other, point) for other in points.values())])
    return found


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def _points(block: Block, column: int) -> list[tuple[int, Cell, Cell]]:
    """(row, clean, robust) of the runs that have both numbers."""
    pairs = [(row, cells[0], cells[column]) for row, cells in enumerate(block.cells)]
    return [(row, clean, robust) for row, clean, robust in pairs if clean.value is not None and robust.value is not None]


def _figure(comparison: Comparison, block: Block, column: int, front: list[int], key: str) -> str:
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure()
    points = _points(block, column)
    left, right = _room([clean for _, clean, _ in points])
    bottom, top = _room([robust for _, _, robust in points])
    corners = sorted({(100 * (block.cells[r][0].value or 0), 100 * (block.cells[r][column].value or 0)) for r in front})
    # "pre": left of a corner everything up to its height is reached, right of it only what the next one reaches
    edge_x = [left, *(c for c, _ in corners), corners[-1][0]]
    edge_y = [corners[0][1], *(r for _, r in corners), bottom]
    axes.plot(edge_x, edge_y, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), drawstyle="steps-pre", zorder=2)
    for row, clean, robust in points:
        number = slot(comparison.runs[row].series)
        x, y = 100 * (clean.value or 0), 100 * (robust.value or 0)
        axes.errorbar(
            x,
            y,
            xerr=[[x - 100 * clean.low], [100 * clean.high - x]],
            yerr=[[y - 100 * robust.low], [100 * robust.high - y]],
            color=SERIES[number],
            marker=MARKERS[number],
            markersize=6,
            elinewidth=1.1,
            markerfacecolor=SERIES[number] if row in front else "none",
            clip_on=False,
            zorder=3,
        )
        if len(comparison.runs) > DISTINCT:
            axes.annotate(str(row + 1), (x, y), (4, 4), textcoords="offset points", color=INK, fontsize=7.5)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.grid(axis="x", color=axes.spines["bottom"].get_edgecolor(), linewidth=0.7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(lambda number, _: f"{number:g} %")
    axes.set_xlabel("accuracy on clean pictures")
    axes.set_ylabel(f"attacked at {comparison.columns[column]}")
    names = [comparison.runs[row].name for row in front]
    each = [
        f"{comparison.runs[r].name} clean {percent(c.value or 0)} %, attacked {percent(a.value or 0)} %" for r, c, a in points
    ]
    alt = f"Clean against attacked accuracy at {comparison.columns[column]}, {block.title}. {'; '.join(each)}. "
    return to_svg(figure, key=key, alt=f"{alt}On the front: {listing(names)}.")


def _room(cells: list[Cell]) -> tuple[float, float]:
    """Limits of an axis in percent: every interval fits, with a little air, and nothing below 0 or above 100."""
    low, high = 100 * min(cell.low for cell in cells), 100 * max(cell.high for cell in cells)
    air = 0.06 * (high - low) or 1.0
    return max(0.0, low - air), min(100.0, high + air)


def _table(comparison: Comparison, block: Block, fronts: list[list[int]]) -> Table:
    rows = []
    for number, (run, cells) in enumerate(zip(comparison.runs, block.cells, strict=True)):
        name = f"{number + 1}. {run.name}" if len(comparison.runs) > DISTINCT else run.name
        words = [_words(cell, False) for cell in cells[:1]]
        words += [_words(cell, number in front) for cell, front in zip(cells[1:], fronts, strict=True)]
        rows.append([name, *words])
    note = (
        "In percent, with 95 % intervals. On the front: no other run is at least as accurate clean and attacked and better in "
        "one of them, as measured; where intervals reach over the front, another sample may order them otherwise."
    )
    return Table(f"Clean and robust accuracy, {block.title}", ["model", *comparison.columns], rows, note)


def _words(cell: Cell, on_front: bool) -> str:
    if cell.value is None:
        return cell.note
    return f"{percent(cell.value)} ({interval(cell)}){' ● front' if on_front else ''}"
