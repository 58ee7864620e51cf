"""Margin histograms as small multiples: one little SVG for clean images and for each eps, all runs on the same scale."""

from itertools import pairwise
from typing import TYPE_CHECKING

from tima.report.comparison import Comparison
from tima.report.runs import Run, Stored
from tima.report.svg import slot

if TYPE_CHECKING:
    from tima.results import Margins

WIDTH, HEIGHT, BASE, TOP, SIDE = 220, 122, 100, 6, 8
MOST_BINS = 40


def margin_figures(comparison: Comparison, pairs: list[tuple[Run, Stored]]) -> list[tuple[str, str]]:
    """(column, SVG) of every column that has margins; no ids inside, colours from the page."""
    columns: list[list[tuple[Run, Margins]]] = []
    for eps in (None, *comparison.eps):
        found: list[tuple[Run, Margins]] = []
        for run, stored in pairs:
            robust = next((row for row in stored.record.robust if row.eps == eps), None)
            margins = stored.record.clean.margins if eps is None else robust.margins if robust else None
            found += [(run, margins)] if margins is not None and any(margins.counts) else []
        columns.append(found)
    every = [margins for column in columns for _, margins in column]
    if not every or any(margins.edges != every[0].edges for margins in every):
        return []
    edges = every[0].edges
    used = [i for margins in every for i, count in enumerate(margins.counts) if count]
    first, last = min(used), max(used) + 1
    merge = -(-(last - first) // MOST_BINS)  # few pixels hold few bins
    zero = min(range(len(edges)), key=lambda i: abs(edges[i]))
    first -= (first - zero) % merge  # zero stays an edge
    cuts = list(range(first, last + merge, merge))
    shares = [[(run, _shares(margins, cuts)) for run, margins in column] for column in columns]
    top = max(share for column in shares for _, values in column for share in values)
    ends = _edge(edges, cuts[0]), _edge(edges, cuts[-1])
    return [
        (name, _figure(values, top, ends, _alt(name, raw)))
        for name, values, raw in zip(comparison.columns, shares, columns, strict=True)
        if values
    ]


def _edge(edges: list[float], index: int) -> float:
    """Edges go on at the same width beyond the first and last."""
    return edges[0] + index * (edges[-1] - edges[0]) / (len(edges) - 1)


def _shares(margins: "Margins", cuts: list[int]) -> list[float]:
    total = sum(margins.counts)
    return [sum(margins.counts[max(0, a) : max(0, b)]) / total for a, b in pairwise(cuts)]


def _figure(values: list[tuple[Run, list[float]]], top: float, ends: tuple[float, float], alt: str) -> str:
    low, high = ends

    def x(margin: float) -> float:
        return SIDE + (WIDTH - 2 * SIDE) * (margin - low) / (high - low)

    parts = [f'<path d="M{SIDE} {BASE}H{WIDTH - SIDE}" stroke="var(--grid)"/>']
    for run, shares in values:
        width = (high - low) / len(shares)
        path = f"M{x(low):.1f} {BASE}"
        for i, share in enumerate(shares):
            path += f"V{BASE - (BASE - TOP) * share / top:.1f}H{x(low + (i + 1) * width):.1f}"
        colour = f"var(--s{slot(run.series)})"
        parts.append(f'<path d="{path}V{BASE}" fill="{colour}" fill-opacity=".13" stroke="{colour}" stroke-width="1.5"/>')
    ticks = [t for t in (low, 0.0, high) if low <= t <= high]
    if low < 0 < high:
        parts.append(f'<path d="M{x(0):.1f} {TOP}V{BASE}" stroke="var(--ink-2)" stroke-dasharray="2 3"/>')
        ticks = [t for t in ticks if t == 0 or abs(x(t) - x(0)) > 24]  # labels must not touch
    for tick in sorted(set(ticks)):
        anchor = "start" if tick == low else "end" if tick == high else "middle"
        label = f"{tick:g}".replace("-", "\u2212")
        parts.append(
            f'<text x="{x(tick):.1f}" y="{BASE + 14}" text-anchor="{anchor}" font-size="11" fill="var(--ink-2)">{label}</text>'
        )
    escaped = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped}" fill="none">{"".join(parts)}</svg>'


def _alt(column: str, found: "list[tuple[Run, Margins]]") -> str:
    each = "; ".join(f"{run.name} median {margins.median:.2f}, mean {margins.mean:.2f}" for run, margins in found)
    return f"Margins, {column}: {each}."
