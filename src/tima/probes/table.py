"""A probe's result as a terminal table."""

from rich.table import Table

from tima.eps import format_eps
from tima.probes.record import ProbeResult, Row


def probe_table(result: ProbeResult) -> Table:
    """Rows are what was measured; columns are the attack sizes, the severities, or the one value. Percent, with intervals."""
    title = f"{result.probe}: {result.model} on {result.data}, n = {result.n}, seed {result.seed}"
    table = Table(title=title, title_justify="left", caption=f"{result.about} 95 % intervals.", caption_justify="left")
    columns = list(dict.fromkeys(_column(row) for row in result.rows))
    columns.sort(key=lambda c: (c == "mean", isinstance(c, str), c))
    table.add_column("")
    for column in columns:
        table.add_column(_title(column), justify="right")
    lines: dict[str, dict[float | int | str, str]] = {}
    for row in result.rows:
        lines.setdefault(_line(result, row), {})[_column(row)] = _cell(row)
    for name, cells in lines.items():
        table.add_row(name, *(cells.get(column, "") for column in columns))
    return table


def _line(result: ProbeResult, row: Row) -> str:
    if result.probe == "corruptions":
        return row.group if row.name != "relative to clean" else row.name
    return f"{row.group}: {row.name}" if row.group else row.name


def _column(row: Row) -> float | int | str:
    if row.eps is not None:
        return row.eps
    return row.severity if row.severity is not None else "mean"


def _title(column: float | int | str) -> str:
    if isinstance(column, str):
        return "value"
    if isinstance(column, int):
        return f"severity {column}"
    return f"eps {format_eps(column)}" if column else "clean"


def _cell(row: Row) -> str:
    return f"{100 * row.value:.1f} [dim]({100 * row.low:.1f} to {100 * row.high:.1f})[/]"
