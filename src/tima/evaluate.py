"""`evaluate`: a model, a data set and a protocol make a result that can be believed.

The order of truth holds for every image, not only on average: wrong on the clean image is broken at every eps; broken at a
smaller eps is broken at every larger one and not attacked again; each eps also starts from what the smaller one found.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tima._evaluate_judge import Judge, check_same_images, quarantined
from tima._evaluate_store import Store
from tima.attacks import find_stages
from tima.data.image_set import ImageSet
from tima.data.table import EMBEDDED
from tima.models import DualEncoder, ZeroShotClassifier
from tima.protocols import Protocol
from tima.results import Clean, Metrics, Result, result_path, versions


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
) -> Result:
    """Score `model` on `data` under `protocol`.

    Args:
        model: the dual encoder; its weights, mode and `requires_grad` are as before afterwards.
        data: the labelled images; resized to the model's grid when they are not on it.
        protocol: see `tima.protocols.load_protocol`.
        out: folder of the run. Writes `results/<data set>.<protocol>.json` and a sidecar (see `tima.results`). A second
            call returns what is complete and goes on after the last finished eps of what is not.
        batch_size: images attacked at once; changes memory and speed, not results.
        device: moves the model there; by default it stays where it is.
        gallery: so many images, drawn with the protocol's seed, are kept with their adversarial versions. Chosen in the first
            call; a call that goes on keeps what was chosen.
        progress: show a bar.
        precision: `fp32` or `bf16` instead of the protocol's, which makes the protocol `custom` where it differs.
        model_name: what tables call the model; by default its own name.
        train_data: the set that the model was tuned on, which averages keep apart; by default what the recipe in `out` says,
            else the embedded training set.

    Returns:
        The result, complete.

    Raises:
        DataError: no readable image.
        ModelError: NaN logits or gradients.
        RecipeError: an attack or parameter that does not exist.
        ResultError: the folder holds a result of another protocol or checkpoint.
    """
    protocol = protocol if precision is None else protocol.override(precision=precision)
    stages = find_stages(protocol.attack, protocol.attack_params)
    if device is not None:
        model.to(device)
    images = data if data.image_size == model.image_size else data.at_size(model.image_size)
    fresh = _empty_result(model, data, protocol, out, model_name, train_data)
    place = None if out is None else result_path(out, data.name, protocol)
    store = Store(place)
    earlier = store.load(fresh)
    if earlier is not None:
        check_same_images(images, earlier[1], place)
        if earlier[0].complete:
            return earlier[0]
    finished = False
    try:
        with _as_judged(model, protocol), _bar(progress) as bar:
            classifier = ZeroShotClassifier(model, fresh.class_names, fresh.templates)
            judge = Judge(classifier, images, protocol, stages, batch_size, bar)
            if earlier is None:
                result, arrays = judge.clean(fresh, gallery)
                store.save(result, arrays)
            else:
                result, arrays = earlier
            for step in range(len(result.robust), len(protocol.eps)):
                result.robust.append(judge.robust(step, arrays, store))
                result.wall_time_s = round(result.wall_time_s + result.robust[-1].wall_time_s, 3)
                result.complete = step + 1 == len(protocol.eps)
                store.save(result, arrays)
                store.forget(step - 1)
        finished = True
    finally:
        store.close(finished=finished)
    return result


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of every parameter and buffer (normalisation included) by name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _empty_result(
    model: DualEncoder, data: ImageSet, protocol: Protocol, out: Path | None, model_name: str | None, train_data: str | None
) -> Result:
    return Result(
        dataset=data.name,
        model=model_name or model.name,
        pretrained=model.name,
        metrics=Metrics(acc1=0, acc5=None, mean_per_class_recall=0),
        clean=Clean(n=0, correct=0, accuracy=0, ci95=(0, 1)),
        attack=protocol.attack,
        norm=protocol.norm,
        n=0,
        seed=protocol.seed,
        class_names=list(data.class_names),
        templates=list(data.templates) if protocol.templates == "data set" else list(protocol.templates),
        protocol={**protocol.content(), "sha256": protocol.sha256},
        checkpoint_sha256=weights_sha256(model),
        versions=versions(),
        quarantine=quarantined(data.quarantine),
        train_domain=_train_domain(data.name, out, train_data),
        wall_time_s=0,
    )


def recipe_data(run: Path | None) -> str | None:
    """The training set that a run's `recipe.yaml` names, or None when `run` is no training run."""
    recipe = None if run is None else Path(run) / "recipe.yaml"
    if recipe is None or not recipe.is_file():
        return None
    import yaml

    values = yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}
    return str(values["data"]) if "method" in values and "data" in values else None


def _train_domain(dataset: str, out: Path | None, train_data: str | None) -> bool:
    """Was the model tuned on this set? Where nothing says so: is it the embedded training set?"""
    trained_on = train_data or recipe_data(out)
    if trained_on is not None:
        return Path(trained_on.split(":")[0]).name == dataset
    return dataset in EMBEDDED and EMBEDDED[dataset].domain == "train"


@contextmanager
def _as_judged(model: DualEncoder, protocol: Protocol) -> Iterator[None]:
    """Evaluation mode, weights without gradients, true fp32 arithmetic; everything as before afterwards."""
    training, wanted = model.training, [p.requires_grad for p in model.parameters()]
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    model.eval().requires_grad_(False)
    slow_fused = protocol.precision == "bf16" and next(model.parameters()).device.type == "cpu"
    attention = model.use_attention("eager") if slow_fused else ""
    try:
        yield
    finally:
        model.train(training)
        if attention:
            model.use_attention(attention)
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


@contextmanager
def _bar(enabled: bool) -> Iterator[Progress]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, disable=not enabled) as bar:
        yield bar
