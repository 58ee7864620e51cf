"""`tima.robustify`: somebody's own Hugging Face model in, a tuned copy of the same class out.

The function has the package's own name for it, `tima.robustify`; a module of that name would stand in its way, hence the
underscore. Training is `train.py`'s, with everything that a run of the command line leaves.
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tima._files import atomic_folder
from tima.config import TrainRecipe, train_recipe, validate
from tima.data import ImageSet, decode, find_data
from tima.data.decoding import MAX_PIXELS, readable, to_rgb
from tima.data.in_memory import KINDS, Encoded, as_image_set
from tima.errors import DataError, ModelError, RecipeError
from tima.evaluation.fingerprint import LOOK
from tima.evaluation.subject import weights_sha256
from tima.models.hugging_face import FAMILIES
from tima.models.hugging_face_files import no_bar, write_preprocessor


@dataclass(frozen=True)
class TrainingRecord:
    """What a training leaves besides the weights.

    Attributes:
        recipe: every setting.
        summary: `summary.json`: counts, time, kept step, validation, versions.
        metrics: the lines of `metrics.jsonl`.
        folder: the run's folder, for `tima evaluate --model` and `tima export --model`; None where none was asked for.
    """

    recipe: TrainRecipe
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    folder: Path | None

    def __str__(self) -> str:
        parts = [
            f"{name} classes: {100 * score['clean_accuracy']:.1f} % clean, {100 * score['robust_accuracy']:.1f} % attacked "
            f"(n = {score['n']})"
            for name, score in self.summary["val"].items()
        ]
        return f"{self.recipe.method}, step {self.summary['best_step']} of {self.summary['steps']} kept. " + "; ".join(parts)


class Robustified(NamedTuple):
    """`tuned, record = tima.robustify(...)`."""

    model: Any
    record: TrainingRecord


def robustify(
    model: Any,
    processor: Any,
    data: Any,
    *,
    method: str = "tima",
    eps: float | str = 4 / 255,
    steps: int = 600,
    out: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Robustified:
    """Tune a copy of `model` to withstand adversarial pictures; `model` itself is not touched.

    Args:
        model: a `CLIPModel`, `SiglipModel` or `VisionTextDualEncoderModel`.
        processor: its processor, with `tokenizer` and `image_processor`. Pictures are resized and normalised as it does.
        data: an `ImageSet`, a `datasets.Dataset`, a list of (image, class name), or the path or name of a data set.
            Some pictures and some classes are held out to choose the best weights by.
        method: see `tima methods`.
        eps: largest change of a pixel in training, in units of [0, 1], or as `"4/255"`.
        steps: optimiser steps.
        out: keep the run here. The same call goes on with what it finds there, and returns at once what is finished.
        progress: show a bar.
        settings: any other field of `TrainRecipe`: `batch_size`, `lr`, `seed`, `templates`, `method_config`, ...

    Returns:
        `(model, record)`: the tuned model, of the class, precision, device and mode of the one given, and how it came about.

    Raises:
        ModelError: another kind of model, or a processor that does not belong to it.
        DataError: data that cannot be used.
        RecipeError: a setting that does not exist, or one that the returned model could not express (`prompt`).
        TrainingError: the loss became NaN or infinite.
    """
    if settings.get("prompt") is not None:
        raise RecipeError(
            "A visual prompt is no part of a Hugging Face model, so the model returned would lack it. Leave prompt out, or "
            "train a run with it: tima train prompt.size=... and export that as onnx or torch-export."
        )
    size = _checked_size(model, processor)
    if out is not None:
        return _run(model, processor, data, size, Path(out), True, progress, method, eps, steps, settings)
    with tempfile.TemporaryDirectory(prefix="tima-robustify-") as name:
        return _run(model, processor, data, size, Path(name), False, progress, method, eps, steps, settings)


def _run(
    model: Any,
    processor: Any,
    data: Any,
    size: int,
    out: Path,
    keep: bool,
    progress: bool,
    method: str,
    eps: float | str,
    steps: int,
    settings: dict[str, Any],
) -> Robustified:
    from tima.train import train

    # the hash is in the folder's name and so in the recipe: a run begun with another model is refused, not resumed. Resolved,
    # so that the same folder named otherwise is the same run
    begun = f"{weights_sha256(model)} {_normalisation(processor.image_processor)}"
    start = out.resolve() / f"start-{hashlib.sha256(begun.encode()).hexdigest()[:12]}"
    images, source = _training_set(data, processor.image_processor, size)
    values = {"method": method, "eps": eps, "steps": steps, **settings, "model": str(start), "data": source}
    recipe: TrainRecipe = validate(TrainRecipe, values, "robustify")
    if not start.is_dir():
        _write_start(model, processor, size, start)
    best = train(recipe, out, progress=progress, images=images)
    with no_bar():
        tuned = type(model).from_pretrained(best, dtype=model.dtype, attn_implementation=model.config._attn_implementation)
    tuned.to(model.device).train(model.training)
    for own, given in zip(tuned.parameters(), model.parameters(), strict=True):
        own.requires_grad_(given.requires_grad)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    log = out / "metrics.jsonl"
    metrics = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    stored = train_recipe(out / "recipe.yaml")  # with `precision: auto` as the run decided it
    return Robustified(tuned, TrainingRecord(stored, summary, metrics, out if keep else None))


def _checked_size(model: Any, processor: Any) -> int:
    """The side of the model's grid, once it is clear that model and processor are what they should be."""
    kind = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    if kind not in FAMILIES:
        known = ", ".join(family[0] for family in FAMILIES.values())
        raise ModelError(f"robustify takes a {known} of Hugging Face transformers, not a {type(model).__name__} ('{kind}').")
    tokenizer, images = getattr(processor, "tokenizer", None), getattr(processor, "image_processor", None)
    if tokenizer is None or images is None:
        raise ModelError(
            f"The processor must have a tokenizer and an image_processor; {type(processor).__name__} lacks "
            f"{'a tokenizer' if tokenizer is None else 'an image_processor'}. AutoProcessor.from_pretrained(NAME) loads both."
        )
    if len(tokenizer) > model.config.text_config.vocab_size:
        raise ModelError(
            f"The tokenizer has {len(tokenizer)} tokens and the text tower {model.config.text_config.vocab_size}: they do not "
            "belong together."
        )
    if abs(float(getattr(images, "rescale_factor", 1 / 255)) * 255 - 1) > 1e-6 or not getattr(images, "do_rescale", True):
        raise ModelError("The image processor does not bring pixels to [0, 1], the range in which eps is meant.")
    size = int(model.config.vision_config.image_size)
    found = _levels(images, [Image.new("RGB", (size + 9, 2 * size))]).shape
    if found != (1, 3, size, size):
        raise ModelError(
            f"The image processor makes pictures of {' x '.join(map(str, found[1:]))}, the model takes 3 x {size} x {size}: "
            "they do not belong together."
        )
    return size


def _normalisation(image_processor: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the channels, in units of [0, 1]."""
    if not getattr(image_processor, "do_normalize", True):
        return [0.0] * 3, [1.0] * 3
    return [float(m) for m in image_processor.image_mean], [float(s) for s in image_processor.image_std]


def _write_start(model: Any, processor: Any, size: int, folder: Path) -> None:
    """The model as the trainer loads it. A copy on disk, so that nothing that training does can reach the one given."""
    mean, std = _normalisation(processor.image_processor)
    with atomic_folder(folder) as part, no_bar(), _same_config(model):
        model.save_pretrained(part, safe_serialization=True)
        processor.tokenizer.save_pretrained(part)
        write_preprocessor(part, size, mean, std)


@contextmanager
def _same_config(model: Any) -> Iterator[None]:
    """Put back what saving writes into the model's own configs: its class and precision."""
    configs = {id(c): c for part in model.modules() if (c := getattr(part, "config", None)) is not None}
    before = {key: dict(vars(config)) for key, config in configs.items()}
    try:
        yield
    finally:
        for key, config in configs.items():
            vars(config).clear()
            vars(config).update(before[key])


def _training_set(data: Any, image_processor: Any, size: int) -> tuple[ImageSet | None, str]:
    """The pictures and what the recipe calls them. A path is left to the trainer, if it resizes as the processor does."""
    same = _resizes_as_we_do(image_processor, size)
    if isinstance(data, (str, Path)):
        if same:
            return None, str(data)
        images = find_data(str(data), "train", size)
    else:
        if data is None:
            raise DataError(f"robustify got no data. Give {KINDS}.")
        images = as_image_set(data, size)
    if not same:
        images = replace(images, read=Resized(images.read, image_processor), decoded=None)
    return images, f"{images.name} ({len(images)} pictures in memory, {_fingerprint(images)})"


def _fingerprint(images: ImageSet) -> str:
    """Of classes, labels and the pixels of `LOOK` pictures spread over the set: other data must not go on with a kept run."""
    digest = hashlib.sha256(json.dumps([images.class_names, images.label_B.tolist()]).encode())
    for index in np.linspace(0, len(images) - 1, min(LOOK, len(images))).astype(int).tolist():
        try:
            digest.update(decode(images.read(index), images.image_size).numpy().tobytes())
        except Exception as error:  # readers raise anything; training leaves the picture out and says so
            digest.update(type(error).__name__.encode())
    return digest.hexdigest()[:12]


def _levels(image_processor: Any, pictures: list[Image.Image]) -> np.ndarray:
    """What the processor makes of pictures before it rescales and normalises: uint8 `B x 3 x S x S`."""
    try:
        made = image_processor(images=pictures, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    except Exception as error:  # processors raise anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"The image processor ({type(image_processor).__name__}) fails on an RGB picture: {first[:300]}"
        ) from error
    return np.asarray(made).round().clip(0, 255).astype(np.uint8)


def _resizes_as_we_do(image_processor: Any, size: int) -> bool:
    """By trial: bicubic to the short side and a centre crop on PIL, or something else."""
    rng = np.random.default_rng(0)
    for width, height in ((2 * size + 3, size + 6), (size - 1, 2 * size)):
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if not np.array_equal(_levels(image_processor, [picture])[0], decode(Encoded([picture])(0), size).numpy()):
            return False
    return True


class Resized:
    """A set's pictures as the processor resizes them, so that the decoder finds them on the grid already."""

    def __init__(self, read: Any, image_processor: Any) -> None:
        self.read, self.image_processor = read, image_processor

    def __call__(self, index: int) -> bytes | Path:
        source = self.read(index)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=list(readable())) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} allowed")
            picture = to_rgb(image)
        level_HWC = np.ascontiguousarray(_levels(self.image_processor, [picture])[0].transpose(1, 2, 0))
        return Encoded([level_HWC])(0)
