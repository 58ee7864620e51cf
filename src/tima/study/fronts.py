"""Accuracy against robustness, one figure an eps: who is best at what clean accuracy, and who is beaten on both."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from tima.report.svg import GRID, INK, MARKERS, SERIES, new_figure, slot, to_svg
from tima.report.words import percent
from tima.study.lines import Number, View
from tima.study.records import CLEAN
from tima.study.schema import parent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (5.2, 3.6)  # inches
LETTER, HEIGHT = 0.011, 0.045  # of a label, as shares of the figure's axes
# offsets of a label in points; the diagonal ones first, where no interval is drawn through the name
SPOTS = (
    (5, 6, "left"),
    (-5, 6, "right"),
    (5, -7, "left"),
    (-5, -7, "right"),
    (7, 0, "left"),
    (-7, 0, "right"),
    (0, 11, "center"),
    (8, 14, "left"),
)


@dataclass(frozen=True)
class Point:
    """One line at one eps: averages over the zero-shot sets."""

    name: str
    clean: Number
    robust: Number
    series: int


def points(view: View, column: str) -> list[Point]:
    """Every line that has both averages."""
    found = []
    for series, line in enumerate(view.lines):
        clean, robust = view.average(line, CLEAN), view.average(line, column)
        if clean is not None and robust is not None:
            found.append(Point(line.name, clean, robust, series))
    return found


def front(found: Sequence[Point]) -> list[Point]:
    """Those that no other is at least as good as on both and better on one, from the cleanest to the most robust."""

    def beaten(p: Point) -> bool:
        return any(
            q.clean.value >= p.clean.value
            and q.robust.value >= p.robust.value
            and (q.clean.value > p.clean.value or q.robust.value > p.robust.value)
            for q in found
        )

    return sorted((p for p in found if not beaten(p)), key=lambda p: (-p.clean.value, p.robust.value))


def front_svg(view: View, column: str, key: str, rows: Mapping[str, Any]) -> str:
    """The figure as inline SVG; empty when no line has averages. A row's other settings share its colour, line and name."""
    found = points(view, column)
    if not found:
        return ""
    best = front(found)
    families = [parent(view.lines[p.series].row, rows) for p in found]
    named = [p for p, family in zip(found, families, strict=True) if view.lines[p.series].row == family or p in best]
    order = list(dict.fromkeys(families))
    found = [replace(p, series=order.index(family)) for p, family in zip(found, families, strict=True)]
    figure, axes = new_figure(SIZE)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.plot([100 * p.clean.value for p in best], [100 * p.robust.value for p in best], color=INK, linewidth=1, alpha=0.6)
    for series in range(len(order)):
        path = sorted((p.clean.value, p.robust.value) for p in found if p.series == series)
        axes.plot([100 * c for c, _ in path], [100 * r for _, r in path], color=SERIES[slot(series)], linewidth=0.7, alpha=0.7)
    for p in found:
        number = slot(p.series)
        x, y = 100 * p.clean.value, 100 * p.robust.value
        axes.plot([100 * p.clean.low, 100 * p.clean.high], [y, y], color=SERIES[number], linewidth=0.8, alpha=0.35)
        axes.plot([x, x], [100 * p.robust.low, 100 * p.robust.high], color=SERIES[number], linewidth=0.8, alpha=0.35)
        axes.plot([x], [y], color=SERIES[number], marker=MARKERS[number], markersize=6, zorder=3, clip_on=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clean accuracy, zero-shot average, %")
    axes.set_ylabel(f"robust accuracy at {column}, %")
    _label(axes, found, named, {p.name for p in best})
    return to_svg(figure, key=key, alt=alt_text(found, best, column))


def alt_text(found: Sequence[Point], best: Sequence[Point], column: str) -> str:
    """The figure in words."""
    each = "; ".join(f"{p.name}: clean {percent(p.clean.value)} %, robust {percent(p.robust.value)} %" for p in found)
    return f"Clean against robust accuracy at {column}. On the front: {', '.join(p.name for p in best)}. All: {each}."


def _label(axes: "Axes", found: Sequence[Point], named: Sequence[Point], best: set[str]) -> None:
    """Names beside `named` points, each at the spot around it that collides least with what is there already."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()

    def place(p: Point) -> tuple[float, float]:
        return (100 * p.clean.value - left) / (right - left), (100 * p.robust.value - low) / (high - low)

    taken = [(x - 0.01, y - 0.015, x + 0.01, y + 0.015) for x, y in map(place, found)]
    for p in sorted(named, key=lambda p: p.name not in best):
        x, y = place(p)
        boxes = []
        for dx, dy, side in SPOTS:
            width = LETTER * len(p.name)
            start = x + dx / 320 - {"left": 0.0, "center": width / 2, "right": width}[side]
            middle = y + dy / 210
            boxes.append((start, middle - HEIGHT / 2, start + width, middle + HEIGHT / 2))
        costs = [sum(_overlap(box, other) for other in taken) + _outside(box) for box in boxes]
        number = costs.index(min(costs))
        dx, dy, side = SPOTS[number]
        taken.append(boxes[number])
        axes.annotate(
            p.name, (100 * p.clean.value, 100 * p.robust.value), (dx, dy), textcoords="offset points", ha=side, va="center",
            color=INK, fontsize=7.5 if p.name in best else 6.5,
        )  # fmt: skip


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: tuple[float, float, float, float]) -> float:
    return sum(max(0.0, edge) for edge in (-box[0], -box[1], box[2] - 1, box[3] - 1)) * 0.1


def standalone(svg: str) -> str:
    """Inline SVG as a file of its own: the page's colours written out, on the page's card."""
    style = (files("tima.report") / "page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"(--[\w-]+): (#[0-9a-f]+);", style[: style.index("}")]))
    for name, colour in colours.items():
        svg = svg.replace(f"var({name})", colour)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="([\d. -]+)"', head)
    _, _, width, height = box.group(1).split() if box else ("0", "0", "100%", "100%")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1)
    return f'{head}><rect width="{width}" height="{height}" fill="{colours["--card"]}"/>{rest}\n'
