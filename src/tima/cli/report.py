"""`tima report`: stored results as one page to show."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import stdout


def add(app: typer.Typer) -> None:
    app.command("report", help="Put the results of one or many runs into one self-contained HTML page.")(report)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, one row of the table each.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML file; a .md and a .csv table are put beside it.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Robust zero-shot accuracy",
) -> None:
    from tima.report import report as make
    from tima.report import terminal_table

    stdout().print(terminal_table(runs))
    page = make(runs, out or runs[0] / "report.html", title=title)
    stdout().print(f"Report: [bold]{page}[/]", highlight=False)
