"""`bench`: counts once, then times every job once a repeat, one after the other, so that all meet the same weather."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tima._provenance import machine, versions
from tima.bench.counting import counted_image, counted_text
from tima.bench.geometries import PREFIX, write_random
from tima.bench.jobs import TowerJob, TrainJob
from tima.bench.peak import copy_speed, matmul_peak
from tima.bench.towers import shape_of
from tima.config import AttackSettings, TrainRecipe, train_recipe
from tima.errors import ModelError, RecipeError
from tima.methods import find_method
from tima.models import ZeroShotClassifier, load_model

KIND = "tima bench 1"


@dataclass(frozen=True)
class BenchSettings:
    """What to time.

    Attributes:
        models: names as `load_model` takes them, or `random:ViT-B-32` and its kin.
        methods: training methods.
        precisions: `fp32`, `bf16`.
        batch_sizes: images a step; each makes its own jobs.
        attack_steps: PGD steps of the training attack.
        classes: length of the class list.
        steps: optimiser steps (calls) timed in a repeat.
        repeats: how often everything is timed.
        overrides: more of the recipe's settings, `key=value`.
    """

    models: tuple[str, ...] = ("nano",)
    methods: tuple[str, ...] = ("tecoa", "tima")
    precisions: tuple[str, ...] = ("fp32", "bf16")
    batch_sizes: tuple[int, ...] = (32,)
    attack_steps: int = 2
    classes: int = 100
    steps: int = 3
    repeats: int = 5
    overrides: tuple[str, ...] = field(default=())


def bench(settings: BenchSettings, say: Callable[[str], None] = lambda _line: None) -> dict[str, Any]:
    """Measure and return the record that `tima bench` writes as JSON.

    Raises:
        RecipeError: unknown methods, precisions or settings, or numbers that cannot be meant.
        ModelError: unknown models.
    """
    check(settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peaks: dict[str, dict[str, Any]] = {}
    for precision in ("fp32", "bf16"):
        say(f"matmul peak, {precision}")
        peaks[precision] = matmul_peak(precision, device)
    record: dict[str, Any] = {
        "kind": KIND,
        "machine": machine(str(device)),
        "versions": versions(),
        "settings": asdict(settings),
        "peak_gflops": peaks,
        "copy_gb_per_s": copy_speed(device),
        "models": {},
        "jobs": [],
    }
    jobs: list[tuple[dict[str, Any], Any]] = []
    with tempfile.TemporaryDirectory(prefix="tima-bench-models-") as folder:
        for name in settings.models:
            say(f"{name}: operations")
            source = str(write_random(name, Path(folder) / str(len(jobs)))) if name.startswith(PREFIX) else name
            record["models"][name], found = _jobs(name, source, settings, device)
            jobs += found
        for entry, job in jobs:
            say(f"{title(entry)}: count")
            with _quiet():
                entry |= job.count()
        seconds: list[list[dict[str, float]]] = [[] for _ in jobs]
        for repeat in range(settings.repeats):
            for (entry, job), times in zip(jobs, seconds, strict=True):
                say(f"repeat {repeat + 1} of {settings.repeats}: {title(entry)}")
                times.append(job.time())
            for precision, peak in peaks.items():  # of the same weather as the jobs
                peak["best"] = max(peak["best"], matmul_peak(precision, device, tries=2)["best"])
    for (entry, _), times in zip(jobs, seconds, strict=True):
        entry["phases"] = {name: [t[name] for t in times] for name in times[0]}
        record["jobs"].append(entry | summary(entry, times, peaks[entry["precision"]]["best"]))
    return record


def summary(entry: dict[str, Any], times: list[dict[str, float]], peak: float) -> dict[str, Any]:
    """Images a second and the share of the peak, as lowest, median and highest of the repeats."""
    whole = [sum(t.values()) for t in times]
    flop = sum(entry["flop"].values())
    return {
        "seconds": spread(whole),
        "images_per_s": spread([entry["batch"] / s for s in whole]),
        "share_of_peak": spread([flop / s / 1e9 / peak for s in whole]),
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}


def title(entry: dict[str, Any]) -> str:
    """A job in a few words."""
    return f"{entry['model']}, {entry['job']}, {entry['precision']}, batch {entry['batch']}"


def _jobs(
    name: str, source: str, s: BenchSettings, device: torch.device
) -> tuple[dict[str, Any], list[tuple[dict[str, Any], Any]]]:
    model = load_model(source).to(device)
    class_names = [f"thing number {i}" for i in range(s.classes)]
    tokens = int(model.tokenize([f"a photo of a {class_names[-1]}."])["input_ids"].shape[1])
    shape = shape_of(model, tokens)
    facts: dict[str, Any] = {
        "image_size": model.image_size,
        "shape": None if shape is None else asdict(shape),
        "counted_image": counted_image(model),
        "counted_text": counted_text(model, [f"a photo of a {n}." for n in class_names[:2]]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "image_parameters": sum(p.numel() for p in model.image_parameters().values()),
    }
    classifier = ZeroShotClassifier(model, class_names[:16])
    found: list[tuple[dict[str, Any], Any]] = []
    for batch in s.batch_sizes:
        common = {"model": name, "batch": batch, "classes": s.classes, "attack_steps": s.attack_steps}
        found.append(
            (
                common | {"job": "evaluation forward", "precision": "fp32"},
                TowerJob(classifier, "evaluation forward", "fp32", batch, s.steps),
            )
        )
        for precision in s.precisions:
            for kind in ("forward", "attack step"):
                entry = common | {"job": kind, "precision": precision}
                found.append((entry, TowerJob(classifier, kind, precision, batch, s.steps)))
            for method in s.methods:
                recipe = recipe_of(method, source, precision, batch, s)
                own = {"attack_steps": recipe.attack.steps if find_method(method).adversarial else 0}
                entry = common | own | {"job": f"train {method}", "method": method, "precision": precision}
                found.append((entry, TrainJob(recipe, s.classes, s.steps)))
    return facts, found


def recipe_of(method: str, source: str, precision: str, batch: int, s: BenchSettings) -> TrainRecipe:
    """The method's defaults at this size."""
    return train_recipe(
        None,
        s.overrides,
        method=method,
        model=source,
        precision=precision,
        batch_size=batch,
        attack=AttackSettings(steps=s.attack_steps).model_dump(mode="json"),
    )


def check(s: BenchSettings) -> None:
    """Refuse what cannot be timed, before anything is."""
    for name in s.methods:
        if find_method(name).name == "zero-shot":
            raise RecipeError("'zero-shot' trains nothing, so it has no training step. Leave it out of --methods.")
    if not s.models:
        raise ModelError("No model was named. Give --model nano, a folder, or random:ViT-B-32.")
    for precision in s.precisions:
        if precision not in ("fp32", "bf16"):
            raise RecipeError(f"There is no precision '{precision}'. Write fp32, bf16 or both: --precision fp32,bf16.")
    numbers = {"--attack-steps": s.attack_steps, "--classes": s.classes - 1, "--steps": s.steps, "--repeats": s.repeats}
    for option, value in [*numbers.items(), *(("--batch-size", b) for b in s.batch_sizes)]:
        if value < 1:
            raise RecipeError(f"{option} is too small: at least {2 if option == '--classes' else 1}.")


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's counter prints a warning for every kernel that it does not know; the table says what was counted."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
