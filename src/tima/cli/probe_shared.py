"""What the probes' commands share: options, the bar, and what is printed and written in the end."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tima.cli.common import stderr, stdout

if TYPE_CHECKING:
    from tima.probes.pictures import Progress
    from tima.probes.record import ProbeResult

Data = Annotated[str, typer.Option("--data", "-d", help="Data set: a name (see: tima data), a folder or a parquet file.")]
Eps = Annotated[str, typer.Option(help="Sizes, separated by commas: 1/255,4/255.")]
Attack = Annotated[str, typer.Option(help="pgd or apgd.")]
Steps = Annotated[int, typer.Option(help="Steps of the attack.")]
Restarts = Annotated[int, typer.Option(help="Random starts of the attack.")]
Samples = Annotated[int | None, typer.Option(help="Pictures, drawn by the seed; all by default.")]
BatchSize = Annotated[int, typer.Option(help="Images at a time; changes speed and memory only.")]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="JSON file; by default probes/PROBE.DATA.json in the run's folder.")
]


@contextmanager
def bar(quiet: bool) -> "Iterator[Progress]":
    from rich.progress import Progress as Bar

    with Bar(console=stderr(), transient=True, disable=quiet) as bar:
        task = bar.add_task("probe", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield show


def finish(found: "ProbeResult", out: Path | None) -> None:
    from tima._files import safe_name
    from tima.cli.jobs import default_out
    from tima.probes.record import write_probe
    from tima.probes.table import probe_table

    name = f"{found.probe}.{safe_name(found.data)}.json"
    path = write_probe(out or default_out(found.model) / "probes" / name, found)
    stdout().print(probe_table(found))
    for line in found.quarantined:
        stderr().print(f"left out {line}", highlight=False, markup=False)
    stdout().print(f"Result: [bold]{path}[/]  ({found.seconds:.0f} s)", highlight=False, soft_wrap=True)
