"""`tima evaluate`: clean and robust zero-shot accuracy under a protocol."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import Model, Quiet, split_names, stderr, stdout
from tima.errors import DataError


def add(app: typer.Typer) -> None:
    app.command("evaluate", help="Measure clean and robust accuracy, with intervals, on one or many data sets.")(evaluate)


def evaluate(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="Data sets, separated by commas: names (see: tima data), folders, or 'zero-shot' for all embedded ones.",
        ),
    ] = "zero-shot",
    protocol: Annotated[
        str, typer.Option("--protocol", "-p", help="Named protocol (see: tima protocols) or a YAML file.")
    ] = "pgd",
    attack: Annotated[str | None, typer.Option(help="Attack, instead of the protocol's: pgd, fgsm.")] = None,
    eps: Annotated[str | None, typer.Option(help="Sizes, separated by commas: 1/255,4/255.")] = None,
    steps: Annotated[int | None, typer.Option(help="Attack steps.")] = None,
    restarts: Annotated[int | None, typer.Option(help="Random starts of the attack.")] = None,
    samples: Annotated[int | None, typer.Option(help="Images of each set, drawn by the seed; 0 for all.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample and of the attack.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run folder for the results; by default the model's own run, or runs/NAME."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time; changes speed, never a number.")] = 250,
    gallery: Annotated[int, typer.Option(help="Keep so many adversarial images of each set for the report.")] = 24,
    quiet: Quiet = False,
) -> None:
    from tima.cli.jobs import default_out, evaluate_run
    from tima.data.table import ZERO_SHOT
    from tima.eps import parse_eps_list
    from tima.protocols import load_protocol

    chosen = load_protocol(protocol)
    changes: dict[str, object] = {}
    if attack is not None and attack != chosen.attack:
        changes.update(attack=attack, attack_params={})
    if eps is not None:
        changes["eps"] = parse_eps_list(eps)
    if samples is not None:
        changes["samples"] = samples or None
    if seed is not None:
        changes["seed"] = seed
    params = {k: v for k, v in (("steps", steps), ("restarts", restarts)) if v is not None}
    if params:
        base = changes.get("attack_params", chosen.attack_params)
        changes["attack_params"] = {**base, **params}  # type: ignore[dict-item]
    chosen = chosen.override(**changes)
    names = [n for part in split_names(data) for n in (ZERO_SHOT if part == "zero-shot" else [part])]
    out = out or default_out(model)
    failed = evaluate_run(model, names, chosen, out, batch_size=batch_size, gallery=gallery, progress=not quiet)

    from tima.report import terminal_table

    stdout().print(terminal_table([out]))
    stdout().print(f"Results: [bold]{out / 'results'}[/]", highlight=False)
    if failed:
        for name, why in failed.items():
            stderr().print(f"[bold yellow]missing[/] {name}: {why}", highlight=False)
        raise DataError(f"{len(failed)} of {len(names)} data sets could not be evaluated; the others are complete.")
