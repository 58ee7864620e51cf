"""`tima methods | data | protocols`: what there is."""

import typer

from tima.cli.common import stdout


def add(app: typer.Typer) -> None:
    app.command("methods", help="List the training methods.")(methods)
    app.command("data", help="List the embedded data sets.")(data)
    app.command("protocols", help="List the evaluation protocols.")(protocols)


def methods() -> None:
    from rich.table import Table

    from tima.methods import METHODS

    table = Table("method", "trains against", "what it is", box=None)
    for name, method in sorted(METHODS.items()):
        table.add_row(name, "adversarial" if method.adversarial else "clean", (method.__doc__ or "").strip().splitlines()[0])
    stdout().print(table)


def data() -> None:
    from rich.table import Table

    from tima.data import find_data
    from tima.data.table import known_sets

    table = Table("name", "role", "images", "classes", "licence", "what it is", box=None)
    for entry in known_sets():
        images = find_data(entry.name, "train" if entry.domain == "train" else None)
        table.add_row(entry.name, entry.domain, f"{len(images):,}", str(len(images.class_names)), entry.licence, entry.about)
    stdout().print(table)


def protocols() -> None:
    from rich.table import Table

    from tima.eps import format_eps
    from tima.protocols import known_protocols, load_protocol

    table = Table("protocol", "attack", "eps", "samples", "what it is", box=None)
    for p in map(load_protocol, known_protocols()):
        eps = ", ".join(map(format_eps, p.eps))
        table.add_row(f"{p.name}@{p.version}", p.attack, eps, str(p.samples or "all"), p.about)
    stdout().print(table)
