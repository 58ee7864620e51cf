"""The comparison as text: a terminal table, Markdown for a README, CSV for other programs."""

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tima.report.compare import compare
from tima.report.comparison import Cell, Comparison
from tima.report.differences import difference_markdown
from tima.report.paired import paired
from tima.report.runs import Run, read_runs
from tima.report.words import (
    MARK,
    chance_sentence,
    closing_sentences,
    health_sentence,
    interval,
    percent,
    summary_sentences,
    warnings_of,
)

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

CSV_COLUMNS = ["protocol", "protocol_sha256", "data", "kind", "model", "run", "eps"]
CSV_COLUMNS += ["accuracy", "low", "high", "correct", "n", "status", "health"]
NOTE = "Accuracy in percent, with 95 % intervals: Wilson for a data set, normal from binomial variances for an average."


def terminal_table(run_folders: Sequence[str | Path]) -> "Table":
    """The comparison for a terminal of 90 columns: a section for each average and data set, a line for each run."""
    runs = read_runs(run_folders)
    return terminal(compare(runs), runs)


def terminal(comparisons: list[Comparison], runs: list[Run]) -> "Table":
    """`terminal_table` of comparisons that are already made."""
    from rich.table import Table
    from rich.text import Text

    table = Table(pad_edge=False, title_justify="left", title_style="bold", caption_justify="left", caption_style="dim")
    if not comparisons:
        table.add_column("No results yet")
        for run in runs:
            table.add_row(Text(f"{run.name}: no results in {run.folder}"))
        return table
    columns = list(dict.fromkeys(column for comparison in comparisons for column in comparison.columns))
    said = (sentence(comparison) for comparison in comparisons for sentence in (chance_sentence, health_sentence))
    table.caption = "\n".join([NOTE, *filter(None, said), *warnings_of(comparisons, runs)])
    # in a narrow terminal a number may go under its interval's line; a name of one letter says nothing
    table.add_column("data", min_width=9)
    table.add_column(comparisons[0].rows, min_width=8, overflow="fold")
    for column in columns:
        table.add_column(f" {column}")
    for comparison in comparisons:
        for block in comparison.blocks:
            title = block.title if len(comparisons) == 1 else f"{block.title} [{comparison.label}]"
            parts = _spread(title, len(comparison.runs))
            for index, (run, row) in enumerate(zip(comparison.runs, block.cells, strict=True)):
                cells = dict(zip(comparison.columns, row, strict=True))
                last = index == len(comparison.runs) - 1
                table.add_row(
                    Text(parts[index]),
                    Text(run.name),
                    *(_terminal_cell(cells[c]) if c in cells else Text("") for c in columns),
                    end_section=last,
                )
    return table


def _spread(title: str, rows: int, width: int = 16) -> list[str]:
    """A long title over the lines of its section instead of making one of them taller."""
    lines = textwrap.wrap(title, width, break_long_words=False)
    lines = [*lines[: rows - 1], " ".join(lines[rows - 1 :])]
    return lines + [""] * (rows - len(lines))


def _terminal_cell(cell: Cell) -> "Text":
    from rich.text import Text

    if cell.value is None:
        return Text(cell.note.split(":")[0], style="yellow")
    bounds = f"{100 * cell.low:.0f}–{100 * cell.high:.0f}"  # noqa: RUF001
    doubt = [(MARK, "yellow")] if cell.suspicious else []
    return Text.assemble((f"{percent(cell.value):>5}", "bold" if cell.best else ""), (f" {bounds}", "dim"), *doubt)


def markdown_table(run_folders: Sequence[str | Path], protocol: str | None = None) -> str:
    """The comparison as Markdown: a sentence, warnings, and for each protocol one table; best values in bold.

    Args:
        protocol: only what was measured under the protocol of this name.
    """
    runs = read_runs(run_folders)
    chosen = [c for c in compare(runs) if protocol is None or c.protocol.get("name") == protocol]
    return markdown(chosen, warnings_of(chosen, runs))


def markdown(comparisons: list[Comparison], warnings: list[str]) -> str:
    if not comparisons:
        return "No results yet.\n"
    lines = [*(f"> **Note:** {warning}\n" for warning in warnings)]
    for comparison in comparisons:
        if len(comparisons) > 1:
            lines.append(f"### Protocol {comparison.label}\n")
        found = paired(comparison)
        if comparison.rows == "model":  # protocols are not ranked: the same weights are no better under one of them
            lines.append(" ".join(summary_sentences(comparison, found)) + "\n")
        lines.append(f"| data | {comparison.rows} | " + " | ".join(comparison.columns) + " |")
        lines.append("|---|---|" + "--:|" * len(comparison.columns))
        for block in comparison.blocks:
            for index, (run, row) in enumerate(zip(comparison.runs, block.cells, strict=True)):
                title = f"{block.title}{' (training domain)' if block.train_domain and not block.average_of else ''}"
                cells = " | ".join(_markdown_cell(cell) for cell in row)
                lines.append(f"| {_escape(title) if index == 0 else ''} | {_escape(run.name)} | {cells} |")
        under = f" Protocol {comparison.label}." if comparison.rows == "model" else ""
        lines.append(f"\n{NOTE}{under}\n")
        lines += [f"{sentence}\n" for sentence in closing_sentences(comparison)]
        differences = difference_markdown(found)
        lines += [differences] if differences else []
    return "\n".join(lines)


def _markdown_cell(cell: Cell) -> str:
    if cell.value is None:
        return f"*{cell.note}*"
    value = f"**{percent(cell.value)}**" if cell.best else percent(cell.value)
    return f"{value}{' ' + MARK if cell.suspicious else ''} <sub>{interval(cell)}</sub>"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def csv_table(comparisons: list[Comparison]) -> str:
    """One line for each (protocol, data, run, eps), fractions in [0, 1], eps 0 = clean; missing numbers are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for comparison in comparisons:
        for block in comparison.blocks:
            kind = "average" if block.average_of else "training domain" if block.train_domain else "zero-shot"
            for run, row in zip(comparison.runs, block.cells, strict=True):
                for eps, cell in zip([0.0, *comparison.eps], row, strict=True):
                    values: list[object] = [""] * 5
                    if cell.value is not None:
                        values = [f"{cell.value:.6f}", f"{cell.low:.6f}", f"{cell.high:.6f}", cell.correct, cell.n]
                    start = [comparison.label, comparison.protocol.get("sha256", ""), block.title, kind]
                    writer.writerow(
                        [*start, run.name, run.folder.name, f"{eps:.6g}", *values, cell.note or "measured", cell.health or ""]
                    )
    return buffer.getvalue()
