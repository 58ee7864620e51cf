"""Accuracy against eps, eps = 0 included, with 95 % bands: one small figure for each data set and average."""

from tima.report.comparison import Block, Comparison
from tima.report.svg import DASHES, INK, MARKERS, SERIES, new_figure, slot, to_svg
from tima.report.words import percent


def curve(comparison: Comparison, block: Block, key: str) -> str:
    """The block's curves as inline SVG; an empty string when no run has a number in it."""
    if not any(cell.value is not None for row in block.cells for cell in row):
        return ""
    from matplotlib.ticker import MaxNLocator  # half a second that the text tables need not wait for

    figure, axes = new_figure()
    levels = 255.0 if comparison.norm == "l_inf" else 1.0
    sizes = [0.0, *(eps * levels for eps in comparison.eps)]
    top = 0.0
    for run, row in zip(comparison.runs, block.cells, strict=True):
        points = [(x, c.value, c.low, c.high) for x, c in zip(sizes, row, strict=True) if c.value is not None]
        if not points:
            continue
        x, value, low, high = ([p[i] * (100 if i else 1) for p in points] for i in range(4))
        number = slot(run.series)
        axes.fill_between(x, low, high, color=SERIES[number], alpha=0.14, linewidth=0)
        axes.plot(
            x,
            value,
            color=SERIES[number],
            marker=MARKERS[number],
            markersize=4.5,
            linestyle=(0, DASHES[number]),
            linewidth=1.7,
            clip_on=False,
            zorder=3,
        )
        top = max(top, *high)
    if block.chance is not None:
        axes.axhline(100 * block.chance, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate(
            "chance", (_free_spot(block, sizes), 100 * block.chance), (0, 2), textcoords="offset points",
            ha="center", va="bottom", color=INK, fontsize=7.5,
        )  # fmt: skip
        top = max(top, 100 * block.chance)
    axes.set_ylim(0, min(100.0, 5 * (top // 5 + 1)))
    axes.set_xlim(0, max(sizes) or 1)
    axes.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.set_xlabel("attack size eps, in 255ths of the pixel range" if levels == 255 else f"attack size eps, {comparison.norm}")
    return to_svg(figure, key=key, alt=_alt(comparison, block))


def _free_spot(block: Block, sizes: list[float]) -> float:
    """Where along the chance line a word is farthest from every curve."""
    import numpy as np

    spots = np.linspace(0.1, 0.92, 40) * max(sizes)
    gap = np.full(len(spots), np.inf)
    for row in block.cells:
        known = [(x, cell.value) for x, cell in zip(sizes, row, strict=True) if cell.value is not None]
        if known and block.chance is not None:
            at = np.interp(spots, [x for x, _ in known], [value for _, value in known])
            below = at < block.chance  # the word stands above its line, so curves below it are no danger
            gap = np.minimum(gap, np.where(below, 0.05 + block.chance - at, at - block.chance))
    over_word = [gap[max(0, i - 3) : i + 4].min() for i in range(len(gap))]  # the word is about six spots wide
    return float(spots[int(np.argmax(over_word))])


def _alt(comparison: Comparison, block: Block) -> str:
    """The curves in words, for those who do not see them."""
    lines = []
    for run, row in zip(comparison.runs, block.cells, strict=True):
        known = [f"{name} {percent(c.value)} %" for name, c in zip(comparison.columns, row, strict=True) if c.value is not None]
        lines.append(f"{run.name}: {', '.join(known) or 'no numbers'}")
    return f"Accuracy against eps, {block.title}. {'; '.join(lines)}."
