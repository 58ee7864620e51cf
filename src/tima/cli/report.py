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
    style: Annotated[
        Format | None, typer.Option("--format", "-f", help="The page, or only a table; by default what --out ends in.")
    ] = None,
    protocols: Annotated[
        Path | None,
        typer.Option("--compare-protocols", help="One run folder: the same weights under every protocol it was judged by."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep the page up to date while the runs train, until they are done.")
    ] = False,
    every: Annotated[float, typer.Option(help="With --watch: seconds between looks.")] = 5.0,
) -> None:
    from tima.report import report as make
    from tima.report import terminal_table, write_protocols, write_table
    from tima.report.formats import SUFFIX

    style = style or _format_of(out, SUFFIX)
    if (protocols is None) == (not runs):
        raise ResultError("Name run folders, or one with --compare-protocols, not both: tima report runs/demo/tima")
    if watch:
        if runs is None or style not in (None, Format.html):
            raise ResultError("--watch keeps the page of some runs up to date: tima report --watch runs/x")
        page = _watch(runs, out or runs[0] / "report.html", title, every)
    elif protocols is not None:
        if style is Format.html:
            raise ResultError("--compare-protocols makes a table: take --format markdown, csv or latex.")
        name = (style or Format.markdown).value
        table_file, tables = write_protocols(protocols, out or protocols / f"protocols{SUFFIX[name]}", name)
        for table in tables:
            stdout().print(table)
        assert table_file is not None
        page = table_file
    else:
        assert runs is not None
        chosen = style or Format.html
        stdout().print(terminal_table(runs))
        target = out or runs[0] / f"report{SUFFIX[chosen.value]}"
        page = make(runs, target, title=title) if chosen is Format.html else write_table(runs, target, chosen.value)
    stdout().print(f"Report: [bold]{page}[/]", highlight=False)


def _format_of(out: Path | None, suffixes: dict[str, str]) -> Format | None:
    """What the file's name asks for: a page called `table.md` would have its own Markdown table written over it."""
    found = next((name for name, suffix in suffixes.items() if out is not None and out.suffix.lower() == suffix), None)
    return None if found is None else Format(found)


def _watch(runs: list[Path], out: Path, title: str, every: float) -> Path:
    from tima.report.watch import watch

    def say(text: str) -> None:
        stdout().print(text, highlight=False, soft_wrap=True)

    try:
        return watch(runs, out, title, every=every, say=say)
    except KeyboardInterrupt:
        say("No longer watched.")
        return out
