"""`evaluate`: a model, a data set and a protocol make a result that can be believed. `evaluate_classifier`: any classifier.

The order of truth holds for every image, not only on average: wrong on the clean image is broken at every eps; broken at a
smaller eps is broken at every larger one and not attacked again; each eps also starts from what the smaller one found.

    torchrun --nproc_per_node=2 -m tima evaluate --model runs/x     # each process attacks its share of the images
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tima._provenance import machine
from tima.attacks import find_stages
from tima.data.image_set import ImageSet
from tima.evaluation.grid import Resized
from tima.evaluation.prepare import behind_resize, fresh_result, on_grid, recipe_data, train_domain
from tima.evaluation.run import Plan, run
from tima.evaluation.same_prompts import ask
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
from tima.results import Result


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
        DataError: no readable image, or classes with the same prompts that the protocol does not allow.
        ModelError: NaN logits or gradients.
        RecipeError: an attack or parameter that does not exist.
        ResultError: the folder holds a result of another protocol or checkpoint.
        TimaError: the disk is full, or not even one image fits into memory; what was finished is kept.
    """
    protocol = protocol if precision is None else protocol.override(precision=precision)
    stages = find_stages(protocol.attack, protocol.attack_params)
    for moved in (model, reference):
        if device is not None and moved is not None:
            moved.to(device)
    templates = protocol.prompts(tuple(data.templates))
    asked = ask(model, data, protocol, templates)
    data = asked.data
    images = on_grid(data, protocol, model.image_size)
    fresh = fresh_result(data.name, list(data.class_names), templates, data.quarantine, protocol, images.image_size)
    fresh.model, fresh.pretrained = model_name or model.name, model.name
    fresh.checkpoint_sha256 = weights_sha256(model)
    fresh.machine = machine(str(next(model.parameters()).device))
    fresh.train_domain = train_domain(data.name, out, train_data)
    fresh.duplicate_prompts = asked.duplicates

    def subject() -> tuple[Subject, LogitsFn | None]:
        found = zero_shot_subject(model, asked.texts, templates, protocol.precision, compile, asked.class_C)
        found = behind_resize(found, images.image_size, model.image_size)
        if reference is None:
            return found, None
        other = zero_shot_subject(reference, asked.texts, templates, "fp32", False, asked.class_C)
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
    if device is not None and isinstance(logits_fn, nn.Module):
        logits_fn.to(device)
    place = torch.device(device) if device is not None else device_of(logits_fn)
    side = data.image_size if isinstance(data, ImageSet) else 0
    source = as_source(on_grid(data, protocol, side) if isinstance(data, ImageSet) else data, data_name, class_names)
    found = behind_resize(plain_subject(logits_fn, name, place, protocol.precision), source.shape[2], side or source.shape[2])
    with as_judged(logits_fn), as_judged(reference):
        if not source.class_names:
            loaded = source.load(torch.arange(1))
            source.class_names = [str(c) for c in range(exact_logits(found, loaded.image_BCHW, source.name).shape[1])]
        fresh = fresh_result(source.name, source.class_names, [], source.quarantine, protocol, source.shape[2])
        fresh.model = fresh.pretrained = name
        fresh.checkpoint_sha256 = checkpoint_sha256(logits_fn, checkpoint, out is not None)
        fresh.machine = machine(str(place))
        return run(
            Plan(fresh, source, protocol, stages, lambda: (found, reference), out, batch_size, gallery, progress)
        )  # fmt: skip


__all__ = ["evaluate", "evaluate_classifier", "recipe_data", "weights_sha256"]
