"""`tima train` and `tima pretrain`."""

from pathlib import Path
from typing import Annotated

import typer

from tima.cli.common import Quiet, stdout
from tima.errors import RecipeError

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Any setting as key=value: lr=1e-4 attack.steps=3 method_config.w_mhe=2")
]
TRAIN_HELP = """Fine-tune a model so that it withstands adversarial pictures.

[bold]tima train --out runs/x[/] tunes the embedded model with TIMA on the embedded pictures. All settings are stored in
runs/x/recipe.yaml; any of them can be given as a key=value word. A stopped run goes on with
[bold]tima train --resume runs/x[/].

Modifiers are such words and combine with any method: lora.rank=8 (low-rank adapters), prompt.size=30 (visual prompt),
awp.gamma=0.005 (weight perturbation), ema=0.999 (moving average), mix=0.7 (interpolation with the original),
attack.kind=n-fgsm or fgsm (one cheap attack step), attack.align=0.2 (GradAlign). docs/choosing.md says what for."""
# lines that the terminal, not this file, breaks
TRAIN_HELP = "\n\n".join(part.replace("\n", " ") for part in TRAIN_HELP.split("\n\n"))


def add(app: typer.Typer) -> None:
    app.command("train", help=TRAIN_HELP, short_help="Fine-tune a model so that it withstands adversarial pictures.")(train)
    app.command("pretrain", help="Make a small CLIP from picture-text pairs and a teacher, as the embedded nano was made.")(
        pretrain
    )


def train(
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.")] = None,
    method: Annotated[
        str | None, typer.Option(help="tima (default), tima-v1, tecoa, fare, tga-zsr, advflyp, ... (see: tima methods).")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="What to start from: nano (default), a folder, a run, a hub name.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", help="Training set: pictures (embedded, default) or a folder.")
    ] = None,
    eps: Annotated[str | None, typer.Option(help="Size of the training attack, as 4/255 (default) or 0.0157.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps; 600 by default.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per step; 128 by default.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; 0.0001 by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="YAML file, the name of a shipped recipe, or a run folder.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run, with its own settings.")] = None,
    shard: Annotated[
        bool | None,
        typer.Option(help="Spread weights and optimiser state over the processes (FSDP2): for models too large for one."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    from tima.config import train_recipe

    fields = dict(method=method, model=model, data=data, eps=eps, steps=steps, batch_size=batch_size, lr=lr, seed=seed)
    if resume is not None:
        if overrides or any(v is not None for v in fields.values()):
            raise RecipeError("--resume goes on with the run's own settings; leave the others away, or give a new --out.")
        if not (resume / "recipe.yaml").is_file():
            raise RecipeError(f"There is no run to go on with at {resume}: it holds no recipe.yaml.")
        recipe, out = str(resume), resume
    if out is None:
        raise RecipeError("Say where the run goes: --out runs/NAME.")
    if recipe is None:
        chosen = method or "tima"
        recipe = chosen if _shipped(chosen) else None
    settings = train_recipe(recipe, overrides or (), **fields)

    from tima.train import train as run

    folder = run(settings, out, progress=not quiet, shard=shard)
    console = stdout()
    console.print(f"Best model: [bold]{folder}[/]")
    console.print(f"Next: tima evaluate --model {out} --data cifar10,groceries --eps 1/255,4/255", highlight=False)


def _shipped(name: str) -> bool:
    from tima.config import recipes_folder

    return (recipes_folder() / f"{name}.yaml").is_file()


def pretrain(
    overrides: Overrides = None,
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="YAML file or the name of a shipped recipe.")] = "nano",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; a stopped run goes on.")] = Path(
        "runs/pretrain-nano"
    ),
) -> None:
    from tima.config import apply_overrides, load_yaml, validate
    from tima.pretrain import PretrainRecipe
    from tima.pretrain import pretrain as run

    settings = validate(PretrainRecipe, apply_overrides(load_yaml(recipe), overrides or ()), f"Recipe {recipe}")
    stdout().print(f"Model: [bold]{run(settings, out)}[/]")
