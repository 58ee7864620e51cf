"""`tima methods | protocols`: what there is."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import stdout


def add(app: typer.Typer) -> None:
    app.command("methods", help="List the training methods.")(methods)
    app.command("protocols", help="List the evaluation protocols, show one, or check your own.")(protocols)


def methods() -> None:
    from rich.table import Table

    from tima.methods import METHODS

    table = Table("method", "pictures", "what it is", box=None)
    for name, method in METHODS.items():
        against = "adversarial" if method.adversarial else "nothing" if name == "zero-shot" else "clean"
        table.add_row(name, against, (method.__doc__ or "").strip().splitlines()[0])
    stdout().print(table)


def protocols(
    name: Annotated[str | None, typer.Argument(help="Show this protocol in full: a name or a YAML file.")] = None,
    check: Annotated[Path | None, typer.Option(help="Check a protocol of your own, field by field.")] = None,
    schemas: Annotated[Path | None, typer.Option(help="Write the JSON Schemas of protocols and results there.")] = None,
) -> None:
    from tima.protocols import check_protocol

    if check is not None:
        protocol = check_protocol(check)
        stdout().print(f"{check} is a valid protocol: [bold]{protocol}[/], sha256 {protocol.sha256[:16]}", highlight=False)
    elif schemas is not None:
        from tima.protocols.schema import write_schemas

        for path in write_schemas(schemas):
            stdout().print(str(path), highlight=False)
    elif name is not None:
        _show(name)
    else:
        _list()


def _show(name: str) -> None:
    """Every field with its value and what it means."""
    from rich.table import Table

    from tima.protocols import load_protocol

    protocol = load_protocol(name)
    table = Table("field", "value", "meaning", box=None)
    for field, value in protocol.content().items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        table.add_row(field, shown, type(protocol).model_fields[field].description or "")
    stdout().print(table)
    stdout().print(f"sha256 {protocol.sha256}: results with this hash compare with each other", highlight=False)


def _list() -> None:
    from rich.table import Table

    from tima.eps import format_eps
    from tima.protocols import known_protocols, load_protocol

    table = Table("protocol", "attack", "eps", "grid", "samples", "what it is", box=None)
    for p in map(load_protocol, known_protocols()):
        eps = ", ".join(map(format_eps, p.eps))
        table.add_row(f"{p.name}@{p.version}", p.attack, eps, p.pixel_grid, str(p.samples or "all"), p.about)
    stdout().print(table)
