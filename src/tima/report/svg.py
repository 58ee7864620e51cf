"""matplotlib figures as inline SVG whose colours and fonts belong to the page.

Figures are drawn in stand-in colours that are replaced by CSS variables, so one drawing reads on light, dark and paper.
Text stays text. Ids are made unique, because many figures share one HTML document.
"""

import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#0b0e01", "#0b0e02"
SERIES = [f"#0c0e{number:02x}" for number in range(7)]  # 0 is the grey of the untrained baseline
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]  # never colour alone
DASHES: list[tuple[float, ...] | None] = [(4, 1.6), None, None, None, (5, 1.4), (3, 1.2), (6, 1, 1, 1)]
VARIABLES = {INK: "--ink-2", GRID: "--grid"} | {colour: f"--s{i}" for i, colour in enumerate(SERIES)}
SIZE = (4.0, 2.5)  # inches: about 380 CSS pixels wide before the page scales it


def slot(series: int) -> int:
    """The style of a series: 0 is the baseline, the others go round."""
    return series if series < len(SERIES) else 1 + (series - 1) % (len(SERIES) - 1)


def new_figure(size: tuple[float, float] = SIZE) -> "tuple[Figure, Axes]":
    """An empty figure with the report's axes: no box, horizontal grid, small neutral labels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=8, length=0, pad=4)
    axes.xaxis.label.set(color=INK, fontsize=8)
    axes.yaxis.label.set(color=INK, fontsize=8)
    return figure, axes


def to_svg(figure: "Figure", *, key: str, alt: str) -> str:
    """The figure as an `<svg role="img">` element. `key` makes its ids unique in the page; `alt` says what it shows."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'href="#', f'href="#{key}-', text)
    text = re.sub(r"url\(#", f"url(#{key}-", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]+;? ?", "", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', head)
    start = f'<svg {box.group(0) if box else ""} xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'{start} role="img" aria-label="{_attribute(alt)}">{rest}'


def swatch(series: int) -> str:
    """A short line with the series' colour, dash and marker, as it appears in the curves."""
    number = slot(series)
    dash = DASHES[number]
    pattern = f' stroke-dasharray="{" ".join(f"{2 * d:g}" for d in dash)}"' if dash else ""
    shapes = {
        "o": '<circle cx="13" cy="7" r="4"/>',
        "s": '<rect x="9.5" y="3.5" width="7" height="7"/>',
        "^": '<path d="M13 2.5 17.5 11h-9z"/>',
        "D": '<path d="M13 2 18 7 13 12 8 7z"/>',
        "v": '<path d="M13 11.5 17.5 3h-9z"/>',
        "P": '<path d="M11.5 2.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z"/>',
        "X": '<path d="M9 4.5 10.5 3 13 5.5 15.5 3 17 4.5 14.5 7 17 9.5 15.5 11 13 8.5 10.5 11 9 9.5 11.5 7z"/>',
    }
    colour = f"var(--s{number})"
    return (
        f'<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true"><path d="M0 7h26" stroke="{colour}" stroke-width="2"'
        f'{pattern}/><g fill="{colour}">{shapes[MARKERS[number]]}</g></svg>'
    )


def line_swatch(colour: str, dash: tuple[float, ...] | None, width: float) -> str:
    """Legend sample of a plain line."""
    pattern = f' stroke-dasharray="{" ".join(f"{width * d:g}" for d in dash)}"' if dash else ""
    return (
        f'<svg class="swatch" viewBox="0 0 26 14" aria-hidden="true"><path d="M0 7h26" stroke="var({VARIABLES[colour]})" '
        f'stroke-width="{width:g}"{pattern}/></svg>'
    )


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
