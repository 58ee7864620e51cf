"""Training curves of a run from its metrics.jsonl: the loss and its terms, and accuracy in training and validation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tima.report.runs import Run
from tima.report.svg import INK, SERIES, line_swatch, new_figure, to_svg
from tima.report.words import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SOLID: tuple[float, ...] | None = None
TERM_DASHES: list[tuple[float, ...] | None] = [SOLID, (5, 2), (2, 1.5), (6, 2, 1, 2), (3, 3)]
TERM_COLOURS = [3, 4, 5, 6, 1, 2]  # not first the colours that mean a run elsewhere on the page
SMOOTH = 9  # training batches are noisy: the strong line is a running mean over this many records


@dataclass(frozen=True)
class Panel:
    """One figure with the legend that goes above it: (sample line, name) pairs."""

    title: str
    svg: str
    legend: list[tuple[str, str]]


@dataclass(frozen=True)
class Line:
    name: str
    x: list[float]
    y: list[float]
    colour: str
    dash: tuple[float, ...] | None = SOLID
    width: float = 1.6
    marker: str = ""


def training_panels(run: Run, key: str) -> list[Panel]:
    """The run's panels; an empty list for a model that was not trained here."""
    train = [record for record in run.metrics if record.get("kind") == "train"]
    val = [record for record in run.metrics if record.get("kind") == "val"]
    panels = []
    losses = _loss_lines(train)
    if losses:
        ends = ", ".join(f"{line.name} from {line.y[0]:.3g} to {line.y[-1]:.3g}" for line in losses)
        panels.append(_panel("Loss and its terms", losses, run, f"{key}-loss", f"Loss of {run.name} against step: {ends}."))
    accuracies = _accuracy_lines(train, val)
    if accuracies:
        ends = ", ".join(f"{line.name} {percent(line.y[-1] / 100)} %" for line in accuracies)
        alt = f"Accuracy of {run.name} while training; at the end: {ends}."
        panels.append(_panel("Accuracy in training and validation", accuracies, run, f"{key}-acc", alt, unit=" %"))
    return panels


def _loss_lines(train: list[dict[str, Any]]) -> list[Line]:
    names = list(dict.fromkeys(name for record in train for name in record.get("terms", {})))
    lines = []
    if len(names) != 1:
        lines = [_smooth("total", train, lambda record: record.get("loss"), INK, SOLID, 2.2)]
    for index, name in enumerate(names):
        colour, dash = SERIES[TERM_COLOURS[index % len(TERM_COLOURS)]], TERM_DASHES[index % len(TERM_DASHES)]
        lines.append(_smooth(name, train, _term(name), colour, dash))
    return [line for line in lines if line.x]


def _term(name: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda record: record.get("terms", {}).get(name)


def _accuracy_lines(train: list[dict[str, Any]], val: list[dict[str, Any]]) -> list[Line]:
    def of(part: str, what: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda record: _hundred((record.get(part) or {}).get(what))

    lines = [_smooth("training, attacked", train, lambda r: _hundred(r.get("robust_accuracy")), SERIES[0], SOLID, 1.3)]
    for part, words, colour in (("seen", "known classes", SERIES[3]), ("unseen", "held-out classes", SERIES[4])):
        lines.append(_points(f"{words}, clean", val, of(part, "clean_accuracy"), colour, (4, 2), "o"))
        lines.append(_points(f"{words}, attacked", val, of(part, "robust_accuracy"), colour, SOLID, "s"))
    return [line for line in lines if line.x]


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _points(
    name: str,
    records: list[dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    colour: str,
    dash: tuple[float, ...] | None,
    marker: str = "",
    width: float = 1.6,
) -> Line:
    pairs = [(float(r["step"]), v) for r in records if (v := value(r)) is not None]
    return Line(name, [x for x, _ in pairs], [y for _, y in pairs], colour, dash, width, marker)


def _smooth(
    name: str,
    records: list[dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    colour: str,
    dash: tuple[float, ...] | None,
    width: float = 1.6,
) -> Line:
    line = _points(name, records, value, colour, dash, "", width)
    half = min(SMOOTH, 1 + len(line.y) // 8) // 2
    means = [sum(part := line.y[max(0, i - half) : i + half + 1]) / len(part) for i in range(len(line.y))]
    return Line(name, line.x, means, colour, dash, width)


def _panel(title: str, lines: list[Line], run: Run, key: str, alt: str, unit: str = "") -> Panel:
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure()
    for line in lines:
        axes.plot(
            line.x,
            line.y,
            color=line.colour,
            linewidth=line.width,
            linestyle=(0, line.dash),
            marker=line.marker or None,
            markersize=3.2,
            clip_on=False,
            zorder=3,
        )
    if all(min(line.y) >= 0 for line in lines):
        axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(line.x[-1] for line in lines) or 1)
    axes.margins(y=0.1)
    axes.set_xlabel("optimiser step")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}{unit}")
    best = run.summary.get("best_step")
    if isinstance(best, (int, float)) and unit and best <= max(line.x[-1] for line in lines):
        _mark_step(axes, float(best))
    legend = [(line_swatch(line.colour, line.dash, line.width + 0.4), line.name) for line in lines]
    return Panel(title, to_svg(figure, key=key, alt=alt), legend)


def _mark_step(axes: "Axes", step: float) -> None:
    """The checkpoint that was kept."""
    axes.axvline(step, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
    right = step > axes.get_xlim()[1] * 0.6
    axes.annotate(
        "kept checkpoint", (step, 1), (-3 if right else 3, -1), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="right" if right else "left", va="top", color=INK, fontsize=7.5,
    )  # fmt: skip
