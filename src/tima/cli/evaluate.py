"""`tima evaluate`: clean and robust zero-shot accuracy under a protocol."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tima.cli.common import Model, Quiet, split_names, stderr, stdout
from tima.errors import DataError

if TYPE_CHECKING:  # for it pydantic is loaded, which `tima --help` need not wait for
    from rich.table import Table

    from tima.protocols import Protocol

CHANGES, MACHINE = "Changes to the protocol (the result is then called 'custom')", "Machine"


def add(app: typer.Typer) -> None:
    app.command("evaluate", help=HELP)(evaluate)


HELP = (
    "Measure clean and robust accuracy, with intervals and attack health, on one or many data sets.\n\n"
    "The number to publish: [bold]tima evaluate --model runs/x --protocol standard[/]. A run that was stopped goes on where it "
    "was. With several GPUs or processes: [bold]torchrun --nproc_per_node=2 -m tima evaluate ...[/]"
)


def evaluate(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            help="Data sets, separated by commas: names (see: tima data), folders, wds:SHARDS, hf:NAME, 'zero-shot' for all "
            "embedded ones, or '16' for the field's sixteen.",
        ),
    ] = "zero-shot",
    protocol: Annotated[
        str, typer.Option("--protocol", "-p", help="Named protocol (see: tima protocols) or a YAML file.")
    ] = "pgd",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run folder for the results; by default the model's own run, or runs/NAME."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="The undefended model: attack health then tries perturbations made on it, which must be weaker."),
    ] = None,
    gallery: Annotated[int, typer.Option(help="Keep so many adversarial images of each set for the report.")] = 24,
    health: Annotated[bool | None, typer.Option(help="Look at attack health, or leave it out. It moves no number.")] = None,
    attack: Annotated[
        str | None,
        typer.Option(help="Attack: autoattack, apgd, pgd, square, fab, fgsm and others.", rich_help_panel=CHANGES),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(
            help="Of autoattack: standard, plus, rand (for random models), or stages separated by commas: apgd-ce,apgd-t.",
            rich_help_panel=CHANGES,
        ),
    ] = None,
    eps: Annotated[str | None, typer.Option(help="Sizes, separated by commas: 1/255,4/255.", rich_help_panel=CHANGES)] = None,
    norm: Annotated[str | None, typer.Option(help="l_inf or l_2.", rich_help_panel=CHANGES)] = None,
    steps: Annotated[int | None, typer.Option(help="Attack steps.", rich_help_panel=CHANGES)] = None,
    restarts: Annotated[int | None, typer.Option(help="Random starts of the attack.", rich_help_panel=CHANGES)] = None,
    queries: Annotated[int | None, typer.Option(help="Queries of black-box attacks.", rich_help_panel=CHANGES)] = None,
    samples: Annotated[
        int | None, typer.Option(help="Images of each set, drawn by the seed; 0 for all.", rich_help_panel=CHANGES)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample and of the attack.", rich_help_panel=CHANGES)] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of the attack: fp32, or bf16 where the device computes in it. Judged in fp32 always.", rich_help_panel=CHANGES
        ),
    ] = None,
    pixel_grid: Annotated[
        str | None, typer.Option(help="Where eps applies: 'model input' or 'data set'.", rich_help_panel=CHANGES)
    ] = None,
    duplicate_prompts: Annotated[
        str | None,
        typer.Option(
            help="Classes with the same prompts: 'error', 'merge' into one class, or 'keep'.", rich_help_panel=CHANGES
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Images at a time; changes speed, never a number.", rich_help_panel=MACHINE)
    ] = 250,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1; by default a GPU if there is one.", rich_help_panel=MACHINE)
    ] = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile what attacks call; pays for long attacks.", rich_help_panel=MACHINE)
    ] = False,
    quiet: Quiet = False,
) -> None:
    from tima.cli.jobs import default_out, evaluate_run
    from tima.data.table import expand_sets
    from tima.evaluation.shards import is_main_process
    from tima.protocols import load_protocol

    params = {
        "version": None if version is None else _version(version),
        "steps": steps,
        "restarts": restarts,
        "queries": queries,
    }
    fields = {"eps": eps, "norm": norm, "seed": seed, "precision": precision, "pixel_grid": pixel_grid}
    fields["duplicate_prompts"] = duplicate_prompts
    chosen = _changed(load_protocol(protocol), attack, params, fields, samples, health)
    names = expand_sets(split_names(data))
    if not names:
        raise DataError("--data names no data set. Give names (see: tima data) or folders, separated by commas.")
    out = out or default_out(model)
    failed = evaluate_run(
        model,
        names,
        chosen,
        out,
        batch_size=batch_size,
        gallery=gallery,
        progress=not quiet,
        device=device,
        compile=compile_,
        reference=reference,
    )
    if is_main_process():
        from rich.markup import escape

        from tima.report import terminal_table

        if any((out / "results").glob("*.json")):
            stdout().print(terminal_table([out]))
            stdout().print(f"Results: [bold]{out / 'results'}[/]", highlight=False)
        if failed:
            stdout().print(_missing(failed))
        for name, why in failed.items():
            stderr().print(f"[bold yellow]missing[/] {escape(name)}: {escape(why)}", highlight=False, soft_wrap=True)
    if failed:
        others = "the others are complete" if len(failed) < len(set(names)) else "nothing was measured"
        raise DataError(
            f"{len(failed)} of {len(set(names))} data sets could not be evaluated ({', '.join(failed)}); {others}. Why is in "
            f"{out / 'missing'}. The same command tries them again and does nothing else twice."
        )


def _missing(failed: dict[str, str]) -> "Table":
    """A row for each set that was asked for and has no number: a table without them would look complete."""
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("data", no_wrap=True), "result", "why")
    for name, why in failed.items():
        table.add_row(Text(name), Text("missing", style="bold yellow"), Text(why.split(". Looked at")[0].splitlines()[0]))
    return table


def _version(text: str) -> str | list[str]:
    """A name, or a list of stages. Only the full standard version is called AutoAttack."""
    from tima.attacks.autoattack import VERSIONS

    return text if text in VERSIONS else split_names(text)


def _changed(
    protocol: "Protocol",
    attack: str | None,
    params: dict[str, Any],
    fields: dict[str, Any],
    samples: int | None,
    health: bool | None,
) -> "Protocol":
    """The protocol with what was asked for; `version` alone asks for autoattack."""
    changes = {key: value for key, value in fields.items() if value is not None}
    params = {key: value for key, value in params.items() if value is not None}
    if "version" in params and attack is None and protocol.attack != "autoattack":
        attack = "autoattack"
    if attack is not None and attack != protocol.attack:
        changes.update(attack=attack, attack_params={})
    if params:
        changes["attack_params"] = {**changes.get("attack_params", protocol.attack_params), **params}
    if samples is not None:
        changes["samples"] = samples or None
    if health is not None:
        changes["health_probe"] = (protocol.health_probe or 32) if health else 0
    return protocol.override(**changes)
