"""What stands before the first image is looked at: the grid, the model behind it, and the empty record."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tima._provenance import versions
from tima.attacks import attack_title
from tima.data.image_set import BadImage, ImageSet
from tima.data.names import set_name
from tima.data.table import EMBEDDED
from tima.evaluation.grid import Resized, shared_side
from tima.evaluation.subject import Subject
from tima.protocols import Protocol
from tima.results import Clean, Metrics, Quarantined, Result


def on_grid(data: ImageSet, protocol: Protocol, model_side: int) -> ImageSet:
    """The images on the grid that eps applies to."""
    side = (shared_side(data) if protocol.pixel_grid == "data set" else None) or model_side
    return data if data.image_size == side else data.at_size(side)


def behind_resize(subject: Subject, side: int, model_side: int) -> Subject:
    """The subject on images of `side` pixels, with the resize to its own grid inside, where these differ."""
    if side == model_side:
        return subject
    exact = Resized(subject.exact, model_side)
    same = subject.attacked is subject.exact  # attack health must see that there is nothing to compare
    return replace(subject, exact=exact, attacked=exact if same else Resized(subject.attacked, model_side))


def fresh_result(
    dataset: str, class_names: list[str], templates: list[str], bad: Sequence[BadImage], protocol: Protocol, grid: int
) -> Result:
    """The record before anything is measured; whoever evaluates says which model it was."""
    return Result(
        dataset=dataset,
        model="",
        pretrained="",
        metrics=Metrics(acc1=0, acc5=None, mean_per_class_recall=0),
        clean=Clean(n=0, correct=0, accuracy=0, ci95=(0, 1)),
        attack=attack_title(protocol.attack, protocol.attack_params),
        norm=protocol.norm,
        n=0,
        seed=protocol.seed,
        class_names=class_names,
        templates=templates,
        protocol={**protocol.content(), "sha256": protocol.sha256},
        checkpoint_sha256="",
        versions=versions(),
        grid=grid,
        quarantine=[Quarantined(where=item.where, why=item.why) for item in bad],
        wall_time_s=0,
    )


def recipe_data(run_folder: Path | None) -> str | None:
    """The training set that a run's `recipe.yaml` names, or None when `run_folder` is no training run."""
    recipe = None if run_folder is None else Path(run_folder) / "recipe.yaml"
    if recipe is None or not recipe.is_file():
        return None
    import yaml

    values = yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}
    return str(values["data"]) if "method" in values and "data" in values else None


def train_domain(dataset: str, out: Path | None, train_data: str | None) -> bool:
    """Was the model tuned on this set? Where nothing says so: is it the embedded training set?"""
    trained_on = train_data or recipe_data(out)
    if trained_on is not None:
        return set_name(trained_on) == dataset
    return dataset in EMBEDDED and EMBEDDED[dataset].domain == "train"
