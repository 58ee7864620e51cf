"""`tima study`: many methods, seeds and sizes under one plan; resumable, and a page from what is stored."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import Quiet, stderr, stdout
from tima.errors import RecipeError, TimaError


def add(app: typer.Typer) -> None:
    app.command("study", help=HELP)(study)


HELP = (
    "Compare methods: train and judge every row of a study file, then put the results on one page.\n\n"
    "[bold]tima study nano-quick --plan[/] says what would run and what it would cost; "
    "[bold]tima study nano-quick --workers 2[/] runs it and goes on after any stop; "
    "[bold]tima study nano-quick --report[/] makes the page again from what is stored."
)


def study(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... [KEY=VALUE]...",
            help="Study files, or names of those that come with the package (see --list); then changes: base.steps=50",
        ),
    ] = [],  # noqa: B006 (typer reads it, nobody changes it)
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of studies; each works in a folder of its name.")] = Path(
        "runs/study"
    ),
    workers: Annotated[int, typer.Option("--workers", "-w", help="Processes at a time; 0 works in this one.")] = 1,
    threads: Annotated[int | None, typer.Option(help="Threads of each worker; by default the cores shared out evenly.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print every run with its estimated cost, and stop.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed before.")] = False,
    known: Annotated[
        Path | None,
        typer.Option(
            help="Kept file, NAME.json, of this study or of another that has some of its runs, or a folder of such: what it "
            "holds was finished elsewhere and is not done again. Once is enough; the study's folder remembers it."
        ),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Only make the pages, from stored results.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="Folder for what is kept of each study, NAME.json; by default that of --out.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Markdown page to write, with .html beside it; by default results.md in --out.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the studies that come with the package.")] = False,
    quiet: Quiet = False,
) -> None:
    from tima.study import adopt, collect, count_known, known_studies, load_study, run_study, write_report, write_store
    from tima.study.known import read_known
    from tima.study.run import alone

    if list_:
        for name in known_studies():
            stdout().print(f"[bold]{name}[/]  {load_study(name).about}", highlight=False)
        return
    names, changes = [w for w in words if "=" not in w], [w for w in words if "=" in w]
    if not names:
        raise RecipeError("Name a study: a YAML file, or one that comes with the package (tima study --list).")
    kept, failed = [], 0
    for name in names:
        chosen = load_study(name, changes)
        folder = out / chosen.name
        path = (store or out) / f"{chosen.name}.json"
        if known is not None:
            with alone(folder):
                files = adopt(folder, known)
            _say_known(chosen.name, count_known(chosen, folder), files)
        if plan:
            from tima.study.plan import show_plan

            show_plan(chosen, folder, max(workers, 1), threads, stdout())
            continue
        if not report:
            outcome = run_study(chosen, folder, workers=workers, threads=threads, retry=retry, progress=not quiet)
            for title, why in outcome.failed.items():
                stderr().print(f"[bold yellow]failed[/] {title}: {why}", highlight=False)
            failed += len(outcome.failed)
        if (folder / "runs").is_dir() or read_known(folder) is not None:
            write_store(path, collect(chosen, folder))
        kept.append(path)
    if plan:
        return
    made, web = write_report(kept, page or out / "results.md")
    console = stdout()
    for path in kept:
        console.print(f"Kept: [bold]{path}[/]", highlight=False)
    console.print(f"Pages: [bold]{made}[/] and [bold]{web}[/]", highlight=False)
    if failed:
        raise TimaError(
            f"{failed} of the study's jobs failed; the page says which, and has the others. --retry tries them again."
        )


def _say_known(name: str, counts: dict[str, tuple[int, int]], files: list[Path]) -> None:
    """How much of a study its kept files hold; a wrong file holds nothing of it."""
    kinds = {"search": "trials", "training": "trainings", "evaluation": "evaluations"}
    said = ", ".join(f"{known} of {total} {kinds[kind]}" for kind, (known, total) in counts.items() if total)
    listed = ", ".join(map(str, files))
    nothing = not any(known for known, _ in counts.values())
    style = "[bold yellow]" if nothing else "[default]"
    stderr().print(f"{style}{name}[/]: finished elsewhere, by {listed}: {said}", highlight=False)
