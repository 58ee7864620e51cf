"""Jobs that more than one command does."""

from pathlib import Path

from tima.errors import DataError
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
    protocol: Protocol,
    out: Path,
    *,
    batch_size: int = 250,
    gallery: int = 24,
    progress: bool = True,
) -> dict[str, str]:
    """Evaluate on several sets; a set that cannot be opened is reported and does not stop the others.

    Returns:
        `{name: why}` of the sets that could not be evaluated.
    """
    from tima.data import find_data
    from tima.evaluate import evaluate, recipe_data
    from tima.models import load_model

    model = load_model(model_name)
    failed: dict[str, str] = {}
    for name in data:
        try:
            images = find_data(name, None, model.image_size)
        except DataError as error:
            failed[name] = str(error)
            continue
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
        )
    return failed
