"""`tima attack`: make the adversarial version of a picture and show what changed."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import Classes, Model, Seed, Templates, read_classes, read_picture, read_templates, stdout
from tima.errors import DataError


def add(app: typer.Typer) -> None:
    app.command("attack", help="Write the adversarial version of a picture and show how the answer moves.")(attack)


def attack(
    picture: Annotated[Path, typer.Argument(help="Picture file.")],
    classes: Classes,
    label: Annotated[
        str | None, typer.Option(help="The right answer, to be driven away from; by default what the model says.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Drive the answer to this class instead.")] = None,
    eps: Annotated[str, typer.Option(help="Largest change of a pixel, as 4/255 or 0.0157.")] = "4/255",
    model: Model = "nano",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the attack.")] = 20,
    template: Templates = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write (.png); by default NAME.adversarial.png in this folder.")
    ] = None,
    seed: Seed = 0,
) -> None:
    from tima.eps import format_eps, parse_eps

    size = parse_eps(eps)
    names = read_classes(classes)
    for what, name in (("--label", label), ("--target", target)):
        if name is not None and name not in names:
            raise DataError(f"{what} '{name}' is none of the classes: {', '.join(names)}.")
    if target is not None and target == label:
        raise DataError(f"--target and --label are both '{label}': an attack drives the answer from the one to the other.")
    path = _free_path(out or Path(f"{picture.stem}.adversarial.png"), picture)

    import torch
    from rich.markup import escape
    from rich.table import Table

    from tima.attacks import pgd
    from tima.cli.pictures import side_by_side, to_picture
    from tima.models import ZeroShotClassifier, load_model

    encoder = load_model(model)
    classifier = ZeroShotClassifier(encoder, names, read_templates(template, names)).requires_grad_(False)
    image_BCHW = read_picture(picture, encoder.image_size)
    clean_C = classifier(image_BCHW).softmax(-1)[0]
    true = names.index(label) if label is not None else int(clean_C.argmax())
    goal = names.index(target) if target is not None else true
    adv_BCHW = pgd(
        classifier,
        image_BCHW,
        torch.tensor([goal]),
        size,
        steps=steps,
        targeted=target is not None,
        generator=torch.Generator().manual_seed(seed),
    )
    # a picture file holds 256 levels: round into the allowed box, and judge what is in the file
    levels = (adv_BCHW * 255).round()
    grey = (image_BCHW * 255).round()  # whole levels, so that no rounding error costs a level of the budget
    reach = int(size * 255 + 1e-6)
    low, high = (grey - reach).clamp(0, 255), (grey + reach).clamp(0, 255)
    saved_BCHW = levels.clamp(low, high) / 255
    adv_C, file_C = classifier(adv_BCHW).softmax(-1)[0], classifier(saved_BCHW).softmax(-1)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    to_picture(saved_BCHW[0]).save(path)
    shown = path.with_name(f"{path.stem}.compare.png")
    side_by_side(image_BCHW[0], saved_BCHW[0], size).save(shown)

    console = stdout()
    title = f"{escape(str(picture))} at eps {format_eps(size)}, {encoder.image_size} px, PGD-{steps}"
    console.print(f"[italic]{title}[/]", soft_wrap=True, highlight=False)  # paths are never broken: they are copied
    table = Table()
    for head in ("class", "clean", "adversarial", "as written to the file"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for index in sorted(range(len(names)), key=lambda i: -float(clean_C[i])):
        shares = (f"{100 * float(p[index]):.1f} %" for p in (clean_C, adv_C, file_C))
        table.add_row(("[bold]" if index == true else "") + escape(names[index]), *shares)
    console.print(table)
    before, after, kept = (escape(names[int(p.argmax())]) for p in (clean_C, adv_C, file_C))
    if target is not None and before == escape(target):
        console.print(f"The answer was [bold]{before}[/] before the attack already.")
    elif label is not None and before != escape(label):
        console.print(f"Without any attack the model says [bold]{before}[/]: it is wrong, and the attack had nothing to do.")
    elif after != before:
        console.print(
            f"The answer moved from [bold]{before}[/] to [bold]{after}[/]"
            + ("." if kept == after else f"; rounded to 8 bits it is {kept}.")
        )
    else:
        console.print(f"The answer stayed [bold]{before}[/]: this attack failed.")
    console.print(
        f"Largest change {float((saved_BCHW - image_BCHW).abs().max() * 255):.0f} of 255 levels. Written: {path}, {shown}",
        highlight=False,
        soft_wrap=True,
    )


def _free_path(path: Path, picture: Path) -> Path:
    """Where the adversarial picture may go: a file that keeps every level, and is not the picture."""
    if path.suffix.lower() != ".png":
        raise DataError(f"--out {path} is no .png. Other formats may change pixels, and with them what the attack found.")
    if path.resolve() == picture.resolve():
        raise DataError(f"{path} is the picture itself; give another --out.")
    return path
