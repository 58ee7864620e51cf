"""`tima demo`: original, TeCoA and TIMA at equal budget, evaluated and reported; safe to run twice."""

import time
from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import Quiet, stdout
from tima.errors import DataError

RUNS = ("tecoa", "tima")


def add(app: typer.Typer) -> None:
    app.command("demo", help="Fine-tune the embedded model with TeCoA and TIMA, evaluate, and write a report.")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs and the report.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    from tima.cli.jobs import evaluate_run
    from tima.config import train_recipe
    from tima.data.table import EMBEDDED
    from tima.protocols import load_protocol
    from tima.report import report, terminal_table
    from tima.train import train

    console = stdout()
    began = time.monotonic()
    for name in RUNS:
        train(train_recipe(f"demo-{name}"), out / name, progress=not quiet)
    protocol = load_protocol("demo")
    runs = [out / name for name in ("original", *RUNS)]
    failed: list[str] = []
    for run in runs:
        model = "nano" if run.name == "original" else str(run)
        missing = evaluate_run(model, list(EMBEDDED), protocol, run, gallery=24, progress=not quiet)
        failed += [f"{run.name} on {name} ({why})" for name, why in missing.items()]
    console.print(terminal_table(runs))
    page = report(runs, out / "report.html", title="TIMA demo: a robust zero-shot classifier")
    console.print(f"\nReport: [bold]{page.resolve()}[/]  ({time.monotonic() - began:.0f} s)", highlight=False, soft_wrap=True)
    if failed:
        raise DataError(f"The demo is not complete: {'; '.join(failed)}. The same command tries again what is missing.")
