"""All data sets at a glance: bars for each model with 95 % intervals, clean and at the headline eps, with chance marked."""

from tima.report.comparison import Comparison
from tima.report.svg import INK, MARKERS, SERIES, new_figure, slot, to_svg
from tima.report.words import percent

BAR, GAP = 0.8, 0.9  # heights in units of one bar: the bar itself, and the room between data sets


def glance(comparison: Comparison, key: str) -> list[tuple[str, str]]:
    """(title, SVG) of the clean panel and the attacked one; empty for fewer than two data sets."""
    if len(comparison.data_sets) < 2:
        return []
    columns = [0, comparison.headline_column] if comparison.eps else [0]
    titles = ["Clean", f"Attacked at {comparison.columns[columns[-1]]}"]
    return [(title, _bars(comparison, column, f"{key}-{column}")) for title, column in zip(titles, columns, strict=False)]


def _bars(comparison: Comparison, column: int, key: str) -> str:
    from matplotlib.ticker import MaxNLocator

    runs, blocks = comparison.runs, comparison.data_sets
    group = len(runs) + GAP
    figure, axes = new_figure((4.4, 0.5 + 0.135 * group * len(blocks)))
    top, said = 0.0, []
    for number, block in enumerate(blocks):
        words = []
        for row, (run, cells) in enumerate(zip(runs, block.cells, strict=True)):
            cell, y, style = cells[column], number * group + row, slot(run.series)
            if cell.value is None:
                axes.annotate(cell.note, (0, y), (4, 0), textcoords="offset points", va="center", color=INK, fontsize=6.5)
                words.append(f"{run.name} {cell.note}")
                continue
            value, low, high = (100 * number for number in (cell.value, cell.low, cell.high))
            axes.barh(y, value, height=BAR, color=SERIES[style], alpha=0.28, linewidth=0)
            axes.plot([low, high], [y, y], color=SERIES[style], linewidth=1.2, clip_on=False)
            axes.plot(value, y, color=SERIES[style], marker=MARKERS[style], markersize=4, clip_on=False, zorder=3)
            top = max(top, high)
            words.append(f"{run.name} {percent(cell.value)} %")
        if block.chance is not None:
            ends = [number * group - 0.5, number * group + len(runs) - 0.5]
            axes.plot([100 * block.chance] * 2, ends, color=INK, linewidth=1, linestyle=(0, (1, 1.4)), zorder=4)
            top = max(top, 100 * block.chance)
        said.append(f"{block.title}: {', '.join(words)}")
    axes.set_xlim(0, min(100.0, 1.04 * top) or 1)
    axes.set_ylim(group * len(blocks) - GAP, -GAP)  # the first data set on top
    axes.set_yticks([number * group + (len(runs) - 1) / 2 for number in range(len(blocks))], [b.title for b in blocks])
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=axes.spines["bottom"].get_edgecolor(), linewidth=0.7)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:g} %")
    return to_svg(figure, key=key, alt=f"Accuracy on each data set, {comparison.columns[column]}. {'; '.join(said)}.")
