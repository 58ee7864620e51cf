"""`tima probe`: retrieval under attack, targeted attacks, misspelt class names, common corruptions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tima.cli.common import Model, Quiet, Seed, split_names, stderr, stdout

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
group = typer.Typer(no_args_is_help=True, help="Probe a model beyond the accuracy on pictures of one class.")


def add(app: typer.Typer) -> None:
    app.add_typer(group, name="probe")


@group.command("retrieval", help="Recall from image to text and from text to image, with the image attacked.")
def retrieval(
    data: Annotated[
        str,
        typer.Option("--data", "-d", help="Parquet (image, captions) file or folder, or a CSV of path,caption."),
    ],
    model: Model = "nano",
    eps: Eps = "1/255,4/255",
    attack: Attack = "apgd",
    steps: Steps = 20,
    restarts: Restarts = 1,
    samples: Samples = None,
    seed: Seed = 0,
    batch_size: BatchSize = 50,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    from tima.eps import parse_eps_list
    from tima.models import load_model
    from tima.probes.captions import read_captions
    from tima.probes.retrieval import probe_retrieval

    sizes, encoder = parse_eps_list(eps), load_model(model)
    pictures = read_captions(data, encoder.image_size)
    with _bar(quiet) as progress:
        found = probe_retrieval(
            encoder,
            pictures,
            sizes,
            attack=attack,
            steps=steps,
            restarts=restarts,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            model_name=model,
            progress=progress,
        )
    _finish(found, out)


@group.command("targeted", help="How often an attack reaches the very class it wants.")
def targeted(
    data: Data,
    model: Model = "nano",
    target: Annotated[
        str | None, typer.Option(help="Class to reach, for all images; by default one is drawn for each image.")
    ] = None,
    eps: Eps = "1/255,4/255",
    attack: Attack = "apgd",
    steps: Steps = 20,
    restarts: Restarts = 1,
    samples: Samples = None,
    seed: Seed = 0,
    batch_size: BatchSize = 100,
    out: Out = None,
    quiet: Quiet = False,
) -> None:
    from tima.data import find_data
    from tima.eps import parse_eps_list
    from tima.models import load_model
    from tima.probes.targeted import probe_targeted

    sizes, encoder = parse_eps_list(eps), load_model(model)
    with _bar(quiet) as progress:
        found = probe_targeted(
            encoder,
            find_data(data, None, encoder.image_size),
            sizes,
            target=target,
            attack=attack,
            steps=steps,
            restarts=restarts,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            model_name=model,
            progress=progress,
        )
    _finish(found, out)


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
    with _bar(quiet) as progress:
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
    _finish(found, out)


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
    with _bar(quiet) as progress:
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
    _finish(found, out)


@contextmanager
def _bar(quiet: bool) -> "Iterator[Progress]":
    from rich.progress import Progress as Bar

    with Bar(console=stderr(), transient=True, disable=quiet) as bar:
        task = bar.add_task("probe", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield show


def _finish(found: "ProbeResult", out: Path | None) -> None:
    import re

    from tima.cli.jobs import default_out
    from tima.probes.record import write_probe
    from tima.probes.table import probe_table

    name = f"{found.probe}.{re.sub(r'[^A-Za-z0-9_-]+', '-', found.data)}.json"
    path = write_probe(out or default_out(found.model) / "probes" / name, found)
    stdout().print(probe_table(found))
    for line in found.quarantined:
        stderr().print(f"left out {line}", highlight=False, markup=False)
    stdout().print(f"Result: [bold]{path}[/]  ({found.seconds:.0f} s)", highlight=False, soft_wrap=True)
