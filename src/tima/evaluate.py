"""`evaluate`: a model, a data set and a protocol make a result that can be believed. `evaluate_classifier`: any classifier.

The order of truth holds for every image, not only on average: wrong on the clean image is broken at every eps; broken at a
smaller eps is broken at every larger one and not attacked again; each eps also starts from what the smaller one found.

    torchrun --nproc_per_node=2 -m tima evaluate --model runs/x     # each process attacks its share of the images
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from tima._provenance import machine, versions
from tima.attacks import attack_title, check_stages, find_stages
from tima.data.image_set import BadImage, ImageSet
from tima.data.names import set_name
from tima.data.table import EMBEDDED
from tima.evaluation.grid import Resized, shared_side
from tima.evaluation.run import Plan, run
from tima.evaluation.source import SetSource, as_source
from tima.evaluation.subject import (
    LogitsFn,
    Subject,
    as_judged,
    checkpoint_sha256,
    device_of,
    exact_logits,
    plain_subject,
    weights_sha256,
    zero_shot_subject,
)
from tima.models import DualEncoder
from tima.protocols import Protocol
from tima.results import Clean, Metrics, Quarantined, Result


def evaluate(
    model: DualEncoder,
    data: ImageSet,
    protocol: Protocol,
    *,
    out: Path | None = None,
    batch_size: int = 250,
    device: str | torch.device | None = None,
    gallery: int = 0,
    progress: bool = True,
    precision: str | None = None,
    model_name: str | None = None,
    train_data: str | None = None,
    compile: bool = False,
    reference: DualEncoder | None = None,
) -> Result:
    """Score `model` on `data` under `protocol`.

    Args:
        model: the dual encoder; its weights, mode and `requires_grad` are as before afterwards.
        data: the labelled images; resized to the grid that the protocol names.
        protocol: see `tima.protocols.load_protocol`.
        out: folder of the run. Writes `results/<data set>.<protocol>.json` and a sidecar (see `tima.results`). A second
            call returns what is complete and goes on inside what is not, attack by attack.
        batch_size: images attacked at once; changes memory and speed, not results. Halved when memory runs out.
        device: moves the model there; by default it stays where it is.
        gallery: so many images, drawn with the protocol's seed, are kept with their adversarial versions. Chosen in the first
            call; a call that goes on keeps what was chosen.
        progress: show a bar.
        precision: `fp32` or `bf16` instead of the protocol's, which makes the protocol `custom` where it differs.
        model_name: what tables call the model; by default its own name.
        train_data: the set that the model was tuned on, which averages keep apart; by default what the recipe in `out` says,
            else the embedded training set.
        compile: compile what attacks call; pays after some hundred steps.
        reference: the undefended model. Attack health compares perturbations made on it, which must be weaker.

    Returns:
        The result, complete.

    Raises:
        DataError: no readable image.
        ModelError: NaN logits or gradients.
        RecipeError: an attack or parameter that does not exist.
        ResultError: the folder holds a result of another protocol or checkpoint.
        TimaError: the disk is full, or not even one image fits into memory; what was finished is kept.
    """
    protocol = protocol if precision is None else protocol.override(precision=precision)
    stages = find_stages(protocol.attack, protocol.attack_params)
    check_stages(stages, protocol.norm)
    for moved in (model, reference):
        if device is not None and moved is not None:
            moved.to(device)
    images = _on_grid(data, protocol, model.image_size)
    templates = protocol.prompts(tuple(data.templates))
    fresh = _fresh(data.name, list(data.class_names), templates, data.quarantine, protocol, images.image_size)
    fresh.model, fresh.pretrained = model_name or model.name, model.name
    fresh.checkpoint_sha256 = weights_sha256(model)
    fresh.machine = machine(str(next(model.parameters()).device))
    fresh.train_domain = _train_domain(data.name, out, train_data)

    def subject() -> tuple[Subject, LogitsFn | None]:
        found = zero_shot_subject(model, data.class_names, templates, protocol.precision, compile)
        found = _behind_resize(found, images.image_size, model.image_size)
        if reference is None:
            return found, None
        other = zero_shot_subject(reference, data.class_names, templates, "fp32", False)
        return found, Resized(other.exact, reference.image_size)

    with as_judged(model), as_judged(reference):
        return run(Plan(fresh, SetSource(images), protocol, stages, subject, out, batch_size, gallery, progress))


def evaluate_classifier(
    logits_fn: LogitsFn,
    data: ImageSet | tuple[Tensor, Tensor],
    protocol: Protocol,
    *,
    name: str,
    data_name: str = "images",
    class_names: Sequence[str] | None = None,
    checkpoint: str | None = None,
    out: Path | None = None,
    batch_size: int = 250,
    device: str | torch.device | None = None,
    gallery: int = 0,
    progress: bool = True,
    reference: LogitsFn | None = None,
) -> Result:
    """Score any image classifier: an `nn.Module`, or a function from pixels in [0, 1] to logits `B x C`.

    Everything that `evaluate` does holds here too, but prompts: the classifier has its classes in itself.

    Args:
        logits_fn: normalisation and defences belong inside, so that they are attacked too. A module is put into evaluation
            mode and left as it was.
        data: an `ImageSet` whose `image_size` is the classifier's, or images `N x C x H x W` in [0, 1] with labels `N`.
        protocol: its `templates` are not used; `pixel_grid: data set` needs an `ImageSet`.
        name: what tables call the classifier.
        data_name: what tables call images that come as tensors.
        class_names: of the logits, in their order; by default the set's, or numbers.
        checkpoint: any text that changes with a function's behaviour. Of a module, weights, layers and their plain settings
            (numbers, texts) are hashed instead; what it holds besides needs this text too.
        out, batch_size, device, gallery, progress: as in `evaluate`.
        reference: an undefended classifier, as pixels to logits.

    Raises:
        DataError: integer images, values outside [0, 1], labels or class names that do not match the logits.
        RecipeError: a function without `checkpoint` whose results are to be kept.
    """
    stages = find_stages(protocol.attack, protocol.attack_params)
    check_stages(stages, protocol.norm)
    if device is not None and isinstance(logits_fn, nn.Module):
        logits_fn.to(device)
    place = torch.device(device) if device is not None else device_of(logits_fn)
    side = data.image_size if isinstance(data, ImageSet) else 0
    source = as_source(_on_grid(data, protocol, side) if isinstance(data, ImageSet) else data, data_name, class_names)
    found = _behind_resize(plain_subject(logits_fn, name, place, protocol.precision), source.shape[2], side or source.shape[2])
    with as_judged(logits_fn), as_judged(reference):
        if not source.class_names:
            loaded = source.load(torch.arange(1))
            source.class_names = [str(c) for c in range(exact_logits(found, loaded.image_BCHW, source.name).shape[1])]
        fresh = _fresh(source.name, source.class_names, [], source.quarantine, protocol, source.shape[2])
        fresh.model = fresh.pretrained = name
        fresh.checkpoint_sha256 = checkpoint_sha256(logits_fn, checkpoint, out is not None)
        fresh.machine = machine(str(place))
        return run(
            Plan(fresh, source, protocol, stages, lambda: (found, reference), out, batch_size, gallery, progress)
        )  # fmt: skip


def _on_grid(data: ImageSet, protocol: Protocol, model_side: int) -> ImageSet:
    """The images on the grid that eps applies to."""
    side = (shared_side(data) if protocol.pixel_grid == "data set" else None) or model_side
    return data if data.image_size == side else data.at_size(side)


def _behind_resize(subject: Subject, side: int, model_side: int) -> Subject:
    if side == model_side:
        return subject
    exact = Resized(subject.exact, model_side)
    same = subject.attacked is subject.exact  # attack health must see that there is nothing to compare
    return replace(subject, exact=exact, attacked=exact if same else Resized(subject.attacked, model_side))


def _fresh(
    dataset: str, class_names: list[str], templates: list[str], bad: Sequence[BadImage], protocol: Protocol, grid: int
) -> Result:
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


def _train_domain(dataset: str, out: Path | None, train_data: str | None) -> bool:
    """Was the model tuned on this set? Where nothing says so: is it the embedded training set?"""
    trained_on = train_data or recipe_data(out)
    if trained_on is not None:
        return set_name(trained_on) == dataset
    return dataset in EMBEDDED and EMBEDDED[dataset].domain == "train"


__all__ = ["evaluate", "evaluate_classifier", "recipe_data", "weights_sha256"]
