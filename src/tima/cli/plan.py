"""`tima plan`: time, memory and cost of a training before it is paid for."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import stdout

HELP = (
    "Say what a training would take: time, memory of each device, cost.\n\n"
    "[bold]tima plan --model ViT-L-14 --images 1.28e6 --epochs 2 --steps 10 --gpus 8xH100 --price 2.5[/]. Without --gpus: this "
    "machine, by what tima bench measured. docs/plan.md says what is assumed."
)


def add(app: typer.Typer) -> None:
    app.command("plan", help=HELP, short_help="What a training would take: time, memory, cost.")(plan)


def plan(
    model: Annotated[str, typer.Option("--model", "-m", help="ViT-B-32, ViT-B-16, ViT-L-14, ViT-L-14-336, ViT-H-14, nano.")],
    method: Annotated[str, typer.Option(help="The training method.")] = "tima",
    images: Annotated[float, typer.Option(help="Pictures of the training set.")] = 1.28e6,
    epochs: Annotated[float, typer.Option(help="How often each is seen.")] = 2,
    steps: Annotated[int, typer.Option(help="PGD steps of the training attack.")] = 2,
    batch_size: Annotated[int, typer.Option(help="Images an optimiser step, over all devices.")] = 128,
    classes: Annotated[int, typer.Option(help="Length of the class list.")] = 1000,
    max_classes: Annotated[int | None, typer.Option(help="Class texts a step encodes at most.")] = None,
    precision: Annotated[str, typer.Option(help="bf16, fp32, or auto: as training takes it.")] = "auto",
    gpus: Annotated[str | None, typer.Option(help="Number and device: 8xH100.")] = None,
    price: Annotated[float | None, typer.Option(help="Of one device for one hour.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="A record of tima bench, for its machine.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="JSON file for the plan.")] = None,
) -> None:
    from tima._files import write_json
    from tima._reading import read_json_object
    from tima.plan import PlanRequest
    from tima.plan import plan as estimate
    from tima.plan.table import show

    record = read_json_object(calibration, "Make one: tima bench --out bench.json") if calibration is not None else None
    found = estimate(
        PlanRequest(
            *(model, method, images, epochs, steps, batch_size, classes, max_classes),
            precision=precision,
            gpus=gpus,
            price=price,
            calibration=record,
        )
    )
    show(found, stdout())
    if out is not None:
        write_json(out, found)
