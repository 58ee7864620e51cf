"""Puts the parts together into one self-contained HTML page, and writes the tables beside it as Markdown, CSV and JSON."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from tima._files import write_text
from tima.errors import ResultError
from tima.report.compare import compare
from tima.report.comparison import Block, Cell, Comparison
from tima.report.curves import curve
from tima.report.details import Detail, details
from tima.report.differences import difference_csv, difference_records, difference_table
from tima.report.gallery import Gallery, galleries
from tima.report.glance import glance
from tima.report.json_tables import json_tables
from tima.report.paired import paired
from tima.report.pareto import Pareto, pareto
from tima.report.provenance import RESULT_COLUMNS, protocol_facts, run_facts
from tima.report.runs import Run, read_runs
from tima.report.svg import swatch
from tima.report.tables import Table
from tima.report.text_tables import csv_table, markdown
from tima.report.training import Panel, training_panels
from tima.report.verdicts import verdict_table
from tima.report.words import MARK, closing_sentences, duration, interval, percent, summary_sentences, warnings_of

DEFAULT_TITLE = "Robust zero-shot classification"


@dataclass(frozen=True)
class Section:
    """One protocol's part of the page."""

    comparison: Comparison
    sentences: list[str]
    cards: list[tuple[Block, str]]
    galleries: list[Gallery]
    closing: list[str]
    differences: Table | None
    skipped: list[str]
    details: list[Detail]
    glance: list[tuple[str, str]]
    pareto: Pareto | None
    verdicts: Table | None


def report(
    run_folders: Sequence[str | Path],
    out: str | Path,
    title: str = DEFAULT_TITLE,
    *,
    pictures: int = 3,
    reload_s: float | None = None,
) -> Path:
    """Write the report of some runs: `out` (HTML, no script, no network) with `.md`, `.csv` and `.json` tables beside it.

    Args:
        run_folders: run folders; rows appear in this order.
        out: the page to write, or a folder, which then gets `report.html`.
        title: the page's heading.
        pictures: rows of the gallery for each data set; 0 leaves the gallery out.
        reload_s: seconds after which the page loads itself again, by a small script of its own: for runs that still train.

    Returns:
        Path of the page.

    Raises:
        ResultError: a folder that is not there, or a file in it that cannot be read; a page named like one of its tables.
        TimaError: the page could not be written.
    """
    page = Path(out) / "report.html" if Path(out).is_dir() or not Path(out).suffix else Path(out)
    if page.suffix.lower() in (".md", ".csv", ".json"):
        raise ResultError(f"{page} would be the page and one of its tables at once. Let the page's name end in .html.")
    runs = read_runs(run_folders)
    comparisons = compare(runs)
    warnings = warnings_of(comparisons, runs)
    write_text(page.with_suffix(".md"), f"# {title}\n\n{markdown(comparisons, warnings)}")
    write_text(page.with_suffix(".csv"), csv_table(comparisons))
    records = [record for c in comparisons for record in difference_records(c, paired(c))]
    if records:
        write_text(page.with_suffix(".differences.csv"), difference_csv(records))
    write_text(page.with_suffix(".json"), json_tables(comparisons))
    write_text(page, _html(runs, comparisons, warnings, title, pictures, reload_s))
    return page


def _html(
    runs: list[Run],
    comparisons: list[Comparison],
    warnings: list[str],
    title: str,
    pictures: int,
    reload_s: float | None,
) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    sections = [_section(comparison, s, pictures) for s, comparison in enumerate(comparisons)]
    training: list[tuple[Run, list[Panel]]] = [(run, training_panels(run, f"t{r}")) for r, run in enumerate(runs)]
    folder = files("tima.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "interval": interval, "safe_svg": Markup, "tie": tie}
    environment.filters |= {"groupby_first": by_first, "spans": spans}
    values: dict[str, Any] = {
        "title": title,
        "style": Markup((folder / "page.css").read_text(encoding="utf-8")),
        "runs": runs,
        "sections": sections,
        "warnings": warnings,
        "training": [(run, panels) for run, panels in training if panels],
        "about": {run.name: about(run) for run in runs},
        "swatch": lambda run: Markup(swatch(run.series)),
        "protocol_facts": protocol_facts,
        "facts": [run_facts(run) for run in runs],
        "result_columns": RESULT_COLUMNS,
        "doubt": MARK,
        "contents": contents(sections, any(panels for _, panels in training)),
        "reload_s": reload_s,
        "script": Markup((folder / "reload.js").read_text(encoding="utf-8")) if reload_s else "",
        "made": f"{datetime.now(tz=UTC):%d %B %Y, %H:%M} UTC",
    }
    return environment.from_string((folder / "page.html.jinja").read_text(encoding="utf-8")).render(values)


def _section(comparison: Comparison, number: int, pictures: int) -> Section:
    from markupsafe import Markup

    found = paired(comparison)
    return Section(
        comparison,
        summary_sentences(comparison, found),
        [(block, Markup(curve(comparison, block, f"c{number}-{b}"))) for b, block in enumerate(comparison.blocks)],
        galleries(comparison, pictures) if pictures > 0 and comparison.eps else [],
        closing_sentences(comparison),
        difference_table(found),
        found.skipped if found.differences else [],
        details(comparison),
        [(name, Markup(svg)) for name, svg in glance(comparison, f"g{number}")],
        pareto(comparison, f"p{number}"),
        verdict_table(comparison),
    )


def contents(sections: list[Section], training: bool) -> list[tuple[str, str]]:
    """(id, words) of the page's headings, in their order."""
    several = len(sections) > 1
    found: list[tuple[str, str]] = []
    parts: list[tuple[str, str, Callable[[Section], Any]]] = [
        ("accuracy", "Accuracy", lambda section: True),
        ("trade", "Clean against robust", lambda section: section.pareto),
        ("differences", "Which differences are significant", lambda section: section.differences),
        ("behind", "Behind the numbers", lambda section: section.details or section.verdicts),
        ("gallery", "Gallery", lambda section: section.galleries),
    ]
    for name, words, there in parts:
        if name == "gallery" and training:
            found.append(("training", "Training"))
        for number, section in enumerate(sections):
            if there(section):
                found.append((f"{name}-{number}", f"{words}, {section.comparison.label}" if several else words))
    return [*found, ("provenance", "Provenance")]


def tie(text: str) -> str:
    """Numbers keep their unit beside them when a line breaks, and ranges stay whole."""
    return re.sub(r"(?<=\d)–(?=\d)", "\u2060–\u2060", text.replace(" %", "\u00a0%"))  # noqa: RUF001


def spans(row: list[Cell]) -> list[tuple[int, int, Cell]]:
    """(column, width, cell) of a row: neighbours that lack a number for the same reason say so once."""
    found: list[tuple[int, int, Cell]] = []
    for column, cell in enumerate(row):
        if found and cell.value is None and found[-1][2].value is None and cell.note == found[-1][2].note:
            start, width, first = found.pop()
            found.append((start, width + 1, first))
        else:
            found.append((column, 1, cell))
    return found


def by_first(rows: list[list[str]]) -> list[tuple[str, list[list[str]]]]:
    """Rows that share their first cell together, in the order given."""
    found: dict[str, list[list[str]]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(row)
    return list(found.items())


def about(run: Run) -> str:
    """One line about where a run comes from."""
    if not run.trained:
        return f"{run.model}, as it was"
    summary = run.summary
    parts = [f"from {run.model}"]
    parts += [f"on {summary['data']}"] if summary.get("data") else []
    parts += [f"training eps {run.train_eps}"] if run.train_eps else []
    steps = f"{summary['steps']:,} steps" if isinstance(summary.get("steps"), int) else ""
    if run.training:
        return ", ".join([*parts, f"training: {run.step:,} of {steps or 'unknown steps'} done"])
    parts += [steps] if steps else []
    parts += [f"in {duration(float(summary['seconds']))}"] if summary.get("seconds") is not None else []
    return ", ".join(parts)
