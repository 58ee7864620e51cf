"""`plan`: from a request to time, memory, cost and warnings. Shapes: `B` images a device, `C` classes."""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tima.bench.geometries import PREFIX, shape_named, write_random
from tima.bench.jobs import TrainJob
from tima.bench.towers import Shape
from tima.config import AttackSettings, train_recipe
from tima.errors import RecipeError
from tima.objective import PROMPTS
from tima.plan.devices import ASSUMED, NETWORK, NODE, Device, find_device
from tima.plan.memory import memory_parts
from tima.plan.rates import Rates, assumed, calibrated
from tima.plan.work import StepWork

MOST_IMAGES = 1e12


@dataclass(frozen=True)
class PlanRequest:
    """What is to be planned.

    Attributes:
        model: a geometry's name (`ViT-L-14`), with or without `random:`.
        images, epochs: pictures seen are `images * epochs`.
        batch: images an optimiser step, over all devices.
        max_classes: class texts that a step encodes; None: all.
        text_tokens: of the longest prompt.
        gpus: `8xH100`, or None for the machine that the calibration was made on.
        price: of one device for one hour, in any currency.
        calibration: a record of `tima bench`.
    """

    model: str
    method: str = "tima"
    images: float = 1.28e6
    epochs: float = 2
    attack_steps: int = 2
    batch: int = 128
    classes: int = 1000
    max_classes: int | None = None
    text_tokens: int = 12
    precision: str = "auto"
    gpus: str | None = None
    price: float | None = None
    calibration: Mapping[str, Any] | None = None


def plan(request: PlanRequest) -> dict[str, Any]:
    """Time (low, likely, high), memory a device and cost.

    Raises:
        RecipeError: numbers that cannot be meant, an unknown device, or no calibration for this machine.
        ModelError: an unknown geometry.
    """
    check(request)
    request = replace(request, precision=_settled(request))
    shape = shape_named(request.model, request.text_tokens)
    count, device = find_device(request.gpus) if request.gpus else (1, None)
    facts = passes_of(request.method, request.attack_steps)
    step = step_work(request, shape, facts, -(-request.batch // count), lean=request.precision == "bf16")
    steps = math.ceil(request.images * request.epochs / request.batch)
    seconds = step_seconds(request, device, step, count)
    hours = {name: value * steps / 3600 for name, value in seconds.items()}
    found: dict[str, Any] = {
        "request": {key: value for key, value in request.__dict__.items() if key != "calibration"},
        "devices": count,
        "optimiser_steps": steps,
        "passes": facts["passes"],
        "seconds_per_step": seconds,
        "hours": hours,
        "device_hours": {name: value * count for name, value in hours.items()},
        "images_per_s": request.batch / seconds["likely"],
        "checkpointing_times": step_seconds(request, device, step.recomputed(), count)["likely"] / seconds["likely"],
        "memory_gb": {
            f"{how}{', checkpointing' if saving else ''}": memory_parts(
                step,
                sharded=count if how == "FSDP" else 1,
                saving=saving,
                fused=device is not None,
                precision=request.precision,
            )
            for how in ("DDP", "FSDP")
            for saving in (False, True)
        },
    }
    if request.price is not None:
        found["cost"] = {name: value * count * request.price for name, value in hours.items()}
    found["warnings"] = warnings(found, device)
    return found


def _settled(request: PlanRequest) -> str:
    """`auto` as training takes it: all GPUs known here compute in bf16; of a measured machine, the faster."""
    if request.precision != "auto":
        return request.precision
    if request.gpus or request.calibration is None:
        return "bf16"
    peaks = request.calibration.get("peak_gflops") or {}
    timed = {str(job.get("precision")) for job in request.calibration.get("jobs") or [] if "passes" in job}
    if len(timed) == 1:
        return timed.pop()
    best = {name: peaks[name]["best"] for name in ("bf16", "fp32") if name in peaks}
    return max(best, key=lambda name: best[name], default="bf16")


def step_seconds(request: PlanRequest, device: Device | None, step: StepWork, count: int) -> dict[str, float]:
    """Low, likely and high. Calibrated: the likely one, and 20 % either way; else by what is assumed of the device."""
    if device is None:
        assert request.calibration is not None
        likely = calibrated(request.calibration, request.precision).seconds(step)
        return {"low": likely / 1.2, "likely": likely, "high": likely * 1.2}
    found = {}
    for level, name in ((2, "low"), (1, "likely"), (0, "high")):
        rates: Rates = assumed(device, request.precision, level)
        exposed = (1 - ASSUMED.overlap[level]) * communication(device, count, step.trained)
        found[name] = rates.seconds(step) + exposed
    return found


def communication(device: Device, count: int, trained: float) -> float:
    """Seconds of summing fp32 gradients over all devices in a ring: each sends and gets `2 (n - 1) / n` of them."""
    if count == 1:
        return 0.0
    slowest = device.link if count <= NODE else min(device.link, NETWORK)
    return 2 * (count - 1) / count * trained * 4 / (slowest * 1e9)


def step_work(request: PlanRequest, shape: Shape, facts: Mapping[str, Any], batch: int, *, lean: bool) -> StepWork:
    trains_text = facts["passes"].get("texts backward", 0) > 0
    seen = request.classes if request.max_classes is None or not trains_text else min(request.classes, request.max_classes)
    texts = float(seen if trains_text else 0)
    forward = 2 * texts if texts > PROMPTS else texts  # a long list is run again in the backward pass
    trained = shape.image.parameters + (shape.text.parameters if trains_text else 0)
    passes = {name: value for name, value in facts["passes"].items() if not name.startswith("texts")}
    return StepWork(shape, batch, seen, forward, texts, passes, float(trained), facts["attack_steps"], lean)


def passes_of(method: str, attack_steps: int) -> dict[str, Any]:
    """Passes an image of the method as it is: counted in one step of the real trainer on a model of two thin layers."""
    with tempfile.TemporaryDirectory(prefix="tima-plan-") as folder:
        source = write_random(f"{PREFIX}tiny", Path(folder))
        recipe = train_recipe(
            None,
            (),
            method=method,
            model=str(source),
            batch_size=4,
            precision="fp32",
            attack=AttackSettings(steps=attack_steps).model_dump(mode="json"),
        )
        passes = TrainJob(recipe, 4, 1).count()["passes"]
    return {"passes": passes, "attack_steps": attack_steps if passes.get("attack backward") else 0}


def warnings(found: Mapping[str, Any], device: Device | None) -> list[str]:
    """What does not fit, and what to change."""
    if device is None:
        return []
    sums = {name: sum(parts.values()) for name, parts in found["memory_gb"].items()}
    fits = [name for name, total in sums.items() if total < 0.9 * device.memory]
    if sums["DDP"] < 0.9 * device.memory:
        return []
    said = f"Plain DDP needs {sums['DDP']:.0f} GB a device, and {device.name} has {device.memory:.0f}."
    if fits:
        return [f"{said} It fits with {fits[0]} ({sums[fits[0]]:.0f} GB)."]
    return [f"{said} Nothing here fits: take a smaller batch, more devices, accumulate=2, or max_classes."]


def check(r: PlanRequest) -> None:
    numbers = {
        "--images": r.images,
        "--epochs": r.epochs,
        "--steps": r.attack_steps,
        "--batch-size": r.batch,
        "--classes": r.classes,
    }
    for option, value in numbers.items():
        if not math.isfinite(value) or value <= 0:
            raise RecipeError(f"{option} must be a number above 0, not {value:g}.")
    if r.images > MOST_IMAGES:
        raise RecipeError(f"--images {r.images:g}: that is more pictures than there are. At most {MOST_IMAGES:g}.")
    if r.precision not in ("auto", "fp32", "bf16"):
        raise RecipeError(f"There is no precision '{r.precision}'. Write auto, fp32 or bf16.")
    if r.price is not None and not (math.isfinite(r.price) and r.price >= 0):
        raise RecipeError(f"--price must be a number of at least 0, not {r.price:g}.")
    if r.gpus is None and r.calibration is None:
        raise RecipeError(
            "Without --gpus the plan is for this machine, and of this machine nothing is known. Run "
            "tima bench --model random:ViT-B-32 --out bench.json first, and give --calibration bench.json; or name devices: "
            "--gpus 8xH100."
        )
    if r.gpus is not None and r.calibration is not None:
        raise RecipeError("--calibration is of the machine it was made on, --gpus of others: give one of the two.")


def with_changes(request: PlanRequest, **changes: Any) -> PlanRequest:
    """The same request but for `changes`."""
    return replace(request, **changes)
