"""Jobs that more than one command does."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tima.errors import RecipeError

if TYPE_CHECKING:
    from tima.protocols import Protocol


def default_out(model: str) -> Path:
    """A run's own folder when `model` is one, else `runs/<last part of the name>`."""
    path = Path(model)
    if (path / "recipe.yaml").is_file():
        return path
    return Path("runs") / (path.name if path.is_dir() else model.replace("/", "--").replace(":", "-").replace(",", "-"))


def evaluate_run(
    model_name: str,
    data: list[str],
    protocol: "Protocol",
    out: Path,
    *,
    batch_size: int = 250,
    gallery: int = 24,
    progress: bool = True,
    device: str | None = None,
    compile: bool = False,
    reference: str | None = None,
) -> dict[str, str]:
    """Evaluate on several sets. One that cannot be evaluated is recorded as missing in `out` and does not stop the others.

    Args:
        model_name, reference: names of models; the second is the undefended one that attack health compares with.
        device: by default a GPU if there is one; among several processes each takes its own.

    Returns:
        `{name: why}` of the sets that could not be evaluated, for whatever reason.
    """
    from tima.data import find_data
    from tima.data.image_set import same_names_allowed
    from tima.evaluate import evaluate, recipe_data
    from tima.evaluation.missing import describe, forget_missing, record_missing
    from tima.evaluation.shards import is_main_process
    from tima.models import load_model

    place = find_device(device)
    model = load_model(model_name)
    other = None if reference is None else load_model(reference)
    failed: dict[str, str] = {}
    for name in data:
        try:
            with same_names_allowed():  # the protocol says what becomes of them
                images = find_data(name, None, model.image_size)
            evaluate(
                model,
                images,
                protocol,
                out=out,
                batch_size=batch_size,
                gallery=gallery,
                progress=progress,
                model_name=model_name,
                train_data=recipe_data(Path(model_name)),
                device=place,
                compile=compile,
                reference=other,
            )
        except Exception as error:  # of whatever kind: a night's other sets must not be lost with this one
            failed[name] = describe(error)
            if is_main_process():
                record_missing(out, name, protocol, model_name, error)
        else:
            if is_main_process():
                forget_missing(out, name, protocol)
    return failed


def find_device(name: str | None) -> str:
    """Where to work: what was asked for, else a GPU if there is one. `cuda` among several processes is each one's own.

    Raises:
        RecipeError: no such device here.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise RecipeError(
            "--device cuda: this machine has no GPU that torch can use. Leave --device out, or install torch for CUDA."
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    place = f"cuda:{local % torch.cuda.device_count()}" if name == "cuda" else name
    try:
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise RecipeError(f"--device {name} cannot be used here: {why}. Leave --device out to take what there is.") from error
    return place
