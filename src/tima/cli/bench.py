"""`tima bench`: the machine's limits, and how near training and evaluation come to them."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import Quiet, split_names, stderr, stdout
from tima.errors import RecipeError

HELP = (
    "Time the real trainer on random pictures, and say how near it comes to what this machine can do.\n\n"
    "[bold]tima bench --model random:ViT-B-32[/] needs no download: random weights cost what trained ones do. The record is "
    "what [bold]tima plan --calibration[/] takes. docs/bench.md says how to read it."
)


def add(app: typer.Typer) -> None:
    app.command("bench", help=HELP, short_help="How near training comes to this machine's limit.")(bench)


def bench(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="More of the recipe's settings: attack.keep_best=false optimizer=sgd")
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Names as elsewhere, or random:ViT-B-32, random:ViT-L-14, ...; separated by ;")
    ] = "random:ViT-B-32",
    methods: Annotated[str, typer.Option(help="Training methods, separated by commas.")] = "tecoa,tima",
    batch_size: Annotated[str, typer.Option(help="Images a step; several, separated by commas, are each timed.")] = "32",
    attack_steps: Annotated[int, typer.Option(help="PGD steps of the training attack.")] = 2,
    classes: Annotated[int, typer.Option(help="Length of the class list.")] = 100,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or both, separated by commas.")] = "fp32,bf16",
    steps: Annotated[int, typer.Option(help="Steps timed in a repeat, after one that warms up.")] = 3,
    repeats: Annotated[int, typer.Option(help="How often everything is timed, one job after the other.")] = 5,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the record.")] = None,
    quiet: Quiet = False,
) -> None:
    from tima._files import write_json
    from tima.bench import BenchSettings
    from tima.bench import bench as measure
    from tima.bench.table import show

    try:
        sizes = tuple(int(word) for word in split_names(batch_size))
    except ValueError:
        raise RecipeError(f"--batch-size takes numbers, separated by commas, not '{batch_size}'.") from None
    settings = BenchSettings(
        models=tuple(name.strip() for name in model.split(";") if name.strip()),
        methods=tuple(split_names(methods)),
        precisions=tuple(split_names(precision)),
        batch_sizes=sizes,
        attack_steps=attack_steps,
        classes=classes,
        steps=steps,
        repeats=repeats,
        overrides=tuple(overrides or ()),
    )
    console = stderr()
    with console.status("starting") as status:
        record = measure(settings, (lambda _line: None) if quiet else (lambda line: status.update(line)))
    show(record, stdout())
    if out is not None:
        write_json(out, record)
        stdout().print(f"Record: [bold]{out}[/]. Next: tima plan --calibration {out} ...", highlight=False)
