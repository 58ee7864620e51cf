"""One table in one format: Markdown, CSV or LaTeX, of runs under a protocol or of protocols on one run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tima._files import write_text
from tima.errors import ResultError
from tima.report.compare import compare
from tima.report.comparison import Comparison
from tima.report.latex import latex
from tima.report.protocols import compare_protocols
from tima.report.runs import read_runs
from tima.report.text_tables import csv_table, markdown, terminal
from tima.report.words import warnings_of

if TYPE_CHECKING:
    from rich.table import Table

SUFFIX = {"html": ".html", "markdown": ".md", "csv": ".csv", "latex": ".tex"}


def write_table(run_folders: Sequence[str | Path], out: str | Path, style: str) -> Path:
    """Write the comparison of runs as `markdown`, `csv` or `latex`; returns the file.

    Raises:
        ResultError: a folder or format that is not there.
    """
    runs = read_runs(run_folders)
    comparisons = compare(runs)
    return _write(comparisons, warnings_of(comparisons, runs), Path(out), style)


def write_protocols(run_folder: str | Path, out: str | Path | None, style: str) -> tuple[Path | None, list["Table"]]:
    """Compare the protocols of one run; returns the file (None without `out`) and tables for a terminal.

    Raises:
        ResultError: see `compare_protocols`; a format that is not there.
    """
    found = compare_protocols(run_folder)
    page = None if out is None else _write(found, [w for c in found for w in warnings_of([c], c.runs)], Path(out), style)
    return page, [terminal([comparison], comparison.runs) for comparison in found]


def _write(comparisons: list[Comparison], warnings: list[str], out: Path, style: str) -> Path:
    makers: dict[str, Callable[[], str]] = {
        "markdown": lambda: markdown(comparisons, warnings),
        "csv": lambda: csv_table(comparisons),
        "latex": lambda: latex(comparisons),
    }
    if style not in makers:
        raise ResultError(f"There is no table format '{style}' here. Take one of: {', '.join(makers)}")
    target = out / f"report{SUFFIX[style]}" if out.is_dir() else out
    write_text(target, makers[style]())
    return target
