"""`tima report`: stored results as one page to show, or as one table."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import stdout
from tima.errors import ResultError


class Format(StrEnum):
    """What `--format` takes."""

    html = "html"
    markdown = "markdown"
    csv = "csv"
    latex = "latex"


def add(app: typer.Typer) -> None:
    app.command("report", help="Put the results of one or many runs into one self-contained HTML page, or one table.")(report)


def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, one row of the table each.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; beside an HTML page go .md, .csv and .json tables.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Robust zero-shot accuracy",
    style: Annotated[Format | None, typer.Option("--format", "-f", help="The page, or only a table.")] = None,
    protocols: Annotated[
        Path | None,
        typer.Option("--compare-protocols", help="One run folder: the same weights under every protocol it was judged by."),
    ] = None,
) -> None:
    from tima.report import report as make
    from tima.report import terminal_table, write_protocols, write_table
    from tima.report.formats import SUFFIX

    if (protocols is None) == (not runs):
        raise ResultError("Name run folders, or one with --compare-protocols, not both: tima report runs/demo/tima")
    if protocols is not None:
        if style is Format.html:
            raise ResultError("--compare-protocols makes a table: take --format markdown, csv or latex.")
        name = (style or Format.markdown).value
        page, tables = write_protocols(protocols, out or protocols / f"protocols{SUFFIX[name]}", name)
        for table in tables:
            stdout().print(table)
    else:
        assert runs is not None
        chosen = style or Format.html
        stdout().print(terminal_table(runs))
        target = out or runs[0] / f"report{SUFFIX[chosen.value]}"
        page = make(runs, target, title=title) if chosen is Format.html else write_table(runs, target, chosen.value)
    stdout().print(f"Report: [bold]{page}[/]", highlight=False)
