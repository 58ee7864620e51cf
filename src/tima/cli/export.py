"""`tima export`: a model of ours as other libraries load it."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import Model, Quiet, Templates, read_classes, read_templates, split_names, stdout


def add(app: typer.Typer) -> None:
    app.command("export", help=HELP)(export)


HELP = (
    "Write a model as transformers, open_clip, onnxruntime, torch.export or LLaVA load it, with a model card.\n\n"
    "What was written is loaded again and compared with the original; only what agrees gets its name. "
    "Several at once: [bold]--to hf,onnx[/] writes DIR/hf and DIR/onnx."
)


def export(
    model: Model,
    to: Annotated[str, typer.Option("--to", help="hf, open_clip, onnx, torch-export, llava; several separated by commas.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not be there.")],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "-c",
            help="onnx, torch-export: also a classifier for these classes (a list, or a file with one a line).",
        ),
    ] = None,
    template: Templates = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder with recipe and results for the card; by default the model, if it is a run.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there; add to a repository.")] = False,
    push: Annotated[str | None, typer.Option(help="Then upload to this hub repository, as owner/name.")] = None,
    public: Annotated[bool, typer.Option("--public", help="A repository made by --push is public; else private.")] = False,
    quiet: Quiet = False,
) -> None:
    names = None if classes is None else read_classes(classes)
    templates = ["a photo of a {c}."] if names is None else read_templates(template, names)

    from tima.export import export_model, push_folder

    console = stdout()

    def say(line: str) -> None:
        if not quiet:
            console.print(line, highlight=False)

    folder = export_model(model, split_names(to), out, class_names=names, templates=templates, run=run, force=force, say=say)
    console.print(f"Exported: [bold]{folder}[/]", soft_wrap=True)
    if push is not None:
        console.print(
            f"Uploaded: {push_folder(folder, push, private=not public, force=force)}", highlight=False, soft_wrap=True
        )
