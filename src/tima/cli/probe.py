"""`tima probe`: retrieval under attack, targeted attacks, misspelt class names, common corruptions."""

from typing import Annotated

import typer

from tima.cli import probe_attacked
from tima.cli.common import Model, Quiet, Seed, split_names
from tima.cli.probe_shared import BatchSize, Data, Out, Samples, bar, finish

group = typer.Typer(no_args_is_help=True, help="Probe a model beyond the accuracy on pictures of one class.")
probe_attacked.add(group)


def add(app: typer.Typer) -> None:
    app.add_typer(group, name="probe")


@group.command("text", help="Accuracy when class names are misspelt, the worst of the spellings tried.")
def text(
    data: Data,
    model: Model = "nano",
    reference: Annotated[str | None, typer.Option(help="Another model to compare with: the original of a tuned one.")] = None,
    budget: Annotated[int, typer.Option(help="Edits of one name.")] = 1,
    tries: Annotated[int, typer.Option(help="Spellings tried for each class.")] = 32,
    search: Annotated[str, typer.Option(help="random or greedy.")] = "random",
    edits: Annotated[str, typer.Option(help="Kinds of edits, separated by commas.")] = "swap,insert,delete,substitute",
    samples: Samples = None,
    seed: Seed = 0,
    batch_size: BatchSize = 100,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    from tima.data import find_data
    from tima.models import load_model
    from tima.probes.text import probe_text

    encoder = load_model(model)
    with bar(quiet) as progress:
        found = probe_text(
            encoder,
            find_data(data, None, encoder.image_size),
            reference=load_model(reference) if reference else None,
            budget=budget,
            tries=tries,
            search=search,
            edits=split_names(edits),
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            model_name=model,
            progress=progress,
        )
    finish(found, out)


@group.command("corruptions", help="Accuracy under 15 common corruptions at 5 severities (noise, blur, weather, digital).")
def corruptions(
    data: Data,
    model: Model = "nano",
    only: Annotated[str | None, typer.Option(help="Corruptions, separated by commas; all 15 by default.")] = None,
    severities: Annotated[str, typer.Option(help="Severities, separated by commas.")] = "1,2,3,4,5",
    parameters: Annotated[
        str | None, typer.Option(help="imagenet-c or cifar-c severities; by default cifar-c up to 64 pixels.")
    ] = None,
    samples: Samples = None,
    seed: Seed = 0,
    batch_size: BatchSize = 100,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    from tima.data import find_data
    from tima.errors import RecipeError
    from tima.models import load_model
    from tima.probes.corrupted import probe_corruptions
    from tima.probes.corruptions import CORRUPTIONS

    try:
        levels = [int(part) for part in split_names(severities)]
    except ValueError:
        raise RecipeError(f"--severities '{severities}': write whole numbers from 1 to 5, separated by commas.") from None
    encoder = load_model(model)
    with bar(quiet) as progress:
        found = probe_corruptions(
            encoder,
            find_data(data, None, encoder.image_size),
            corruptions=split_names(only) if only else list(CORRUPTIONS),
            severities=levels,
            table=parameters,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            model_name=model,
            progress=progress,
        )
    finish(found, out)
