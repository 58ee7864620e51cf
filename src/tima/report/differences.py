"""The paired comparison as tables: on the page, in Markdown, and as records for JSON and CSV."""

import csv
import io
from dataclasses import asdict
from typing import Any

from tima.report.comparison import Comparison
from tima.report.paired import Difference, Paired
from tima.report.tables import Table
from tima.report.words import difference_text

TITLE = "Which differences are significant"
NOTE = (
    "Accuracy of the first model minus that of the second, in percentage points, on the very same images, with a 95 % paired "
    "bootstrap interval (for an average: within each data set). p: exact McNemar test; for an average, random swaps of the two "
    "models' outcomes. Both are corrected after Holm over all {count} comparisons of this protocol; below 0.05 is called "
    "significant. Images are what varies here, not training runs."
)
COLUMNS = ["data", "models", "eps", "difference", "95 % interval", "p (Holm)", ""]


def difference_table(paired: Paired) -> Table | None:
    """None when there is no pair of runs with outcomes of the same images."""
    if not paired.differences:
        return None
    rows = [
        [
            d.data,
            f"{d.first} − {d.second}",  # noqa: RUF001 (a minus sign)
            d.column,
            difference_text(d.difference),
            f"{difference_text(d.low)} to {difference_text(d.high)}",
            p_text(d.p_holm),
            "significant" if d.significant else "may be chance",
        ]
        for d in sorted(paired.differences, key=lambda d: not d.average)
    ]
    return Table(TITLE, COLUMNS, rows, NOTE.format(count=len(rows)))


def p_text(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.1 else f"{p:.2f}"


def difference_markdown(paired: Paired) -> str:
    """The table after the accuracies; empty when there is none."""
    table = difference_table(paired)
    lines = [f"> **Not compared image by image:** {why}.\n" for why in paired.skipped if paired.differences]
    if table is None:
        return ""
    lines += [f"#### {table.title}\n", f"| {' | '.join(table.columns)} |", "|---|---|---|--:|---|--:|---|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|').replace('<', '&lt;') for cell in row)} |" for row in table.rows]
    return "\n".join([*lines, f"\n{table.note}\n"])


def difference_records(comparison: Comparison, paired: Paired) -> list[dict[str, Any]]:
    """Fractions in [0, 1], eps in pixel units, 0 is clean."""
    start = {"protocol": comparison.label, "protocol_sha256": str(comparison.protocol.get("sha256", ""))}
    return [{**start, **_record(d), "significant": d.significant} for d in paired.differences]


def _record(difference: Difference) -> dict[str, Any]:
    values = asdict(difference)
    values["kind"] = "average" if values.pop("average") else "data set"
    values.pop("column")
    return values


def difference_csv(records: list[dict[str, Any]]) -> str:
    """One line for each pair of runs, data set and eps."""
    buffer = io.StringIO()
    names = ["protocol", "protocol_sha256", "data", "kind", "first", "second", "eps"]
    names += ["difference", "low", "high", "p", "p_holm", "significant", "n"]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()
