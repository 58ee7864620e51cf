"""`tima predict`: what is in these pictures, among the classes named."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import Classes, Model, Templates, read_classes, read_picture, read_templates, stdout
from tima.errors import DataError


def add(app: typer.Typer) -> None:
    app.command("predict", help="Classify pictures against any list of class names.")(predict)


def predict(
    pictures: Annotated[list[Path], typer.Argument(help="Picture files.")],
    classes: Classes,
    model: Model = "nano",
    template: Templates = None,
    top: Annotated[int, typer.Option(min=1, help="Show so many of the likeliest classes.")] = 5,
) -> None:
    names = read_classes(classes)

    import torch
    from rich.markup import escape
    from rich.table import Table

    from tima.models import ZeroShotClassifier, load_model

    encoder = load_model(model)
    classifier = ZeroShotClassifier(encoder, names, read_templates(template, names))
    console = stdout()
    unread: list[str] = []
    for path in pictures:
        try:
            image_BCHW = read_picture(path, encoder.image_size)
        except DataError as error:  # the others are classified all the same
            unread.append(str(error))
            continue
        with torch.no_grad():
            share_C = classifier(image_BCHW).softmax(-1)[0]
        console.print(f"[italic]{escape(str(path))}[/]", soft_wrap=True, highlight=False)  # whole, to be copied
        table = Table(show_header=False, box=None)
        for index in share_C.argsort(descending=True)[:top].tolist():
            bar = "█" * round(30 * float(share_C[index]))
            table.add_row(escape(names[index]), f"{100 * float(share_C[index]):5.1f} %", f"[cyan]{bar}[/]")
        console.print(table)
    if unread:
        raise DataError(f"{len(unread)} of {len(pictures)} pictures left out:\n  " + "\n  ".join(unread))
