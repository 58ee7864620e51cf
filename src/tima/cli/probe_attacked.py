"""`tima probe retrieval` and `tima probe targeted`: the probes with an attack on the image."""

from typing import Annotated

import typer

from tima.cli.common import Model, Quiet, Seed
from tima.cli.probe_shared import Attack, BatchSize, Data, Eps, Out, Restarts, Samples, Steps, bar, finish


def add(group: typer.Typer) -> None:
    group.command("retrieval", help="Recall from image to text and from text to image, with the image attacked.")(retrieval)
    group.command("targeted", help="How often an attack reaches the very class it wants.")(targeted)


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
    with bar(quiet) as progress:
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
    finish(found, out)


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
    with bar(quiet) as progress:
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
    finish(found, out)
