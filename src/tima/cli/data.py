"""`tima data list | show | get | check`: which data sets there are, what they hold, how to have them, are they whole."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tima.cli.common import Quiet, stderr, stdout
from tima.errors import DataError

if TYPE_CHECKING:
    from tima.data.check import Checked
    from tima.data.field import FieldEntry

app = typer.Typer(help="Data sets: list them, show one, fetch one, check whether they are whole.", rich_markup_mode="rich")
STYLE = {"ok": "green", "note": "yellow", "wrong": "bold red", "missing": "bold yellow"}


def add(parent: typer.Typer) -> None:
    parent.add_typer(app, name="data")


@app.callback(invoke_without_command=True)
def _plain(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_sets()


@app.command("list")
def list_sets() -> None:
    """The embedded sets and those of the field, and which of them are here."""
    from rich.table import Column, Table

    from tima.data.field import field_sets, field_version, sixteen
    from tima.data.places import data_home
    from tima.data.table import find_data, known_sets

    embedded = Table(Column("embedded", no_wrap=True), "role", "images", "classes", "licence", "what it is", box=None)
    for entry in known_sets():
        images = find_data(entry.name, "train" if entry.domain == "train" else None)
        embedded.add_row(entry.name, entry.domain, f"{len(images):,}", str(len(images.class_names)), entry.licence, entry.about)
    stdout().print(embedded)
    table = Table(Column("of the field", no_wrap=True), "16", "images", "classes", "here", "what it is", box=None)
    for one in field_sets().values():
        split, count = next(iter(one.splits.items()))
        here = _where(one)
        table.add_row(
            one.name,
            "16" if one.name in sixteen() else "",
            f"{count:,} {split}",
            str(one.classes or "captions"),
            "[dim]missing[/]" if here is None else "yes",
            one.about,
        )
    stdout().print()
    stdout().print(table)
    stdout().print(
        f"\nTable version {field_version()}. [bold]--data 16[/] names the sixteen; [bold]tima data show NAME[/] says more. "
        f"Looked for in TIMA_DATA and {data_home()}.",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def show(name: Annotated[str, typer.Argument(help="An embedded set, or one of the field.")]) -> None:
    """All that the table says about a set, and where it is or how to get it."""
    from rich.text import Text

    from tima.data.field import field_entry
    from tima.data.places import data_home
    from tima.data.table import EMBEDDED

    if name in EMBEDDED:
        return _print_rows(_embedded_rows(name))
    entry = field_entry(name)
    here = _where(entry)
    rows = {
        "title": entry.title,
        "what it is": entry.about,
        "classes": str(entry.classes or "none: captions"),
        "images": ", ".join(f"{split} {count:,}" for split, count in entry.splits.items()),
        "metric": entry.metric,
        "chance": f"{100 * entry.chance:.2f} %",
        "templates": " | ".join(entry.templates),
        "class names": _names(entry),
        "licence": entry.licence,
        "homepage": entry.homepage,
        "download": entry.size,
        "checksums": ", ".join(f"{s.file}: md5 {s.md5} ({s.checksum_from})" for s in entry.sources if s.md5)
        or "none published",
        "CLIP_benchmark": f"{entry.benchmark}, {entry.shards_url}" if entry.benchmark else "not there",
        "hub": f"hf:{entry.hub}" if entry.hub else "",
        "folder names": ", ".join(entry.places),
        "here": str(here) if here else "missing",
    }
    _print_rows(rows)
    stdout().print("\n[bold]how to get it[/]", highlight=False)
    stdout().print(Text(entry.how(str(data_home()))), highlight=False, soft_wrap=True)


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A set of the field.")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder that holds data sets; else the first of TIMA_DATA.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="The licence is read and accepted.")] = False,
    shards: Annotated[
        bool, typer.Option("--shards", help="CLIP_benchmark's shards from the hub, in place of the archives.")
    ] = False,
    split: Annotated[str, typer.Option(help="Which split of the shards.")] = "test",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the archives after they are unpacked.")] = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a set from its publisher, after its licence has been accepted. A fetch that was stopped goes on."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from tima.data.check import check as check_set
    from tima.data.field import field_entry
    from tima.data.get import get as get_set
    from tima.data.places import data_home
    from tima.data.table import EMBEDDED

    if name in EMBEDDED:
        raise DataError(f"'{name}' is embedded in the package, so there is nothing to fetch: --data {name}")
    entry, root = field_entry(name), to or data_home()
    if not entry.sources and not shards:
        raise DataError(f"{entry.title} has no public download.\n{entry.how(str(root))}")
    source = entry.shards_url if shards else ", ".join(s.url for s in entry.sources)
    console = stderr()
    for line in (f"{entry.title}: {entry.size}", f"licence: {entry.licence}", f"from: {source}", f"into: {root / entry.name}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not yes and not _agreed():
        raise DataError("Nothing was fetched. Read the licence, then say --yes.")
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=quiet) as bar:
        tasks: dict[str, TaskID] = {}

        def told(file: str, have: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file, total=total)
            bar.update(tasks[file], completed=have, total=total)

        folder = get_set(entry, root, shards=shards, split=split, keep=keep, progress=told)
    found = check_set(str(folder), entry=entry, samples=100)
    _print(found)
    if found.verdict in ("wrong", "missing"):
        raise DataError(f"{folder} was fetched and is not what it should be; see above.")
    stdout().print(f"[bold]{folder}[/] is ready: --data {folder if to else name}", highlight=False, soft_wrap=True)


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(help="Sets of the field, or paths; all sets of the field by default.")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Pictures of each split that are decoded, drawn by a fixed seed; 0 for none.")
    ] = 500,
    every: Annotated[bool, typer.Option("--all", help="Decode every picture.")] = False,
) -> None:
    """Counts, checksums, class names given twice, pictures that do not decode; and what to put where if a set is missing."""
    from tima.data.check import check as check_set
    from tima.data.field import field_sets
    from tima.data.table import expand_sets

    if samples < 0:
        raise DataError(f"--samples {samples}: give 0 or more.")
    results = []
    for name in expand_sets(names or list(field_sets())):
        results.append(check_set(name, samples=None if every else samples))
        _print(results[-1])
    faulty = [found.name for found in results if found.verdict in ("wrong", "missing")]
    if faulty:
        raise DataError(f"{len(faulty)} of {len(results)} sets are missing or not whole: {', '.join(faulty)}.")


def _print(found: "Checked") -> None:
    from rich.markup import escape

    stdout().print(f"[bold]{escape(found.name)}[/]", highlight=False)
    for one in found.findings:
        words = escape(one.words).replace("\n", "\n    ")
        stdout().print(f"  [{STYLE[one.verdict]}]{one.verdict}[/] {escape(one.what)}: {words}", highlight=False, soft_wrap=True)


def _embedded_rows(name: str) -> dict[str, str]:
    from tima.data.table import EMBEDDED, find_data

    entry = EMBEDDED[name]
    images = find_data(name, "train" if entry.domain == "train" else None)
    return {
        "title": entry.name,
        "what it is": entry.about,
        "role": "the embedded training set" if entry.domain == "train" else "zero-shot: no run may train on it",
        "classes": str(len(images.class_names)),
        "images": f"{len(images):,}",
        "chance": f"{100 / len(images.class_names):.2f} %",
        "templates": " | ".join(images.templates),
        "class names": ", ".join(images.class_names),
        "licence": entry.licence,
        "here": "embedded in the package",
    }


def _print_rows(rows: dict[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    for key, value in rows.items():
        if value:
            table.add_row(Text(key, style="bold"), Text(value, overflow="fold"))
    stdout().print(table, highlight=False)


def _where(entry: "FieldEntry") -> Path | None:
    """The first place where a folder of the set lies; whether it is whole is for `check` to say."""
    from tima.data.table import places_of

    return next((path for path in places_of(entry.name) if path.is_dir()), None)


def _names(entry: "FieldEntry") -> str:
    if entry.names is None:
        return "read from the files" if entry.classes else ""
    names = list(entry.names.values()) if isinstance(entry.names, dict) else list(entry.names)
    return ", ".join(names)


def _agreed() -> bool:
    import sys

    return sys.stdin.isatty() and typer.confirm("Fetch it under that licence?", default=False, err=True)
