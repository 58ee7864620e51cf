"""Adversarial training on one GPU: share of the card's peak, ratio over the field's usual loop, ViT-L/14, memory.

    python benchmarks/gpu.py                       # one CUDA GPU; -> results/training/gpu.json
    python benchmarks/gpu.py --device cpu --tiny   # the same code on anything, to see that it runs; no figures come of it

The field's loop: fp16 autocast with a gradient scaler, the attack through `loss.backward()` into the weights, DataParallel, SGD
on the library's model, batches from pageable memory. Ours: the trainer's own step. Repeats are interleaved, ratios formed
within a repeat. Random weights and images suffice for speed. Shapes: `B` images, `C` classes.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from _words import class_names

from tima._provenance import machine, versions
from tima.bench.geometries import write_random
from tima.bench.peak import matmul_peak, wait
from tima.bench.towers import shape_of
from tima.checkpoint import Progress
from tima.config import AttackSettings, TrainRecipe
from tima.methods.tima import Tima
from tima.models import DualEncoder, load_model
from tima.models.lean_text import ends, shared_tokens
from tima.modifiers import Modifiers
from tima.objective import Objective
from tima.train import build_optimizer
from tima.train_batch import TrainBatch
from tima.train_speed import quicken
from tima.train_step import update

RESULTS = Path(__file__).parent / "results" / "training" / "gpu.json"
EPS = 4 / 255
TARGETS = {"share of the bf16 peak": 0.40, "times the field's loop": 3.0}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models and batches: does it run?")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--large-batch", type=int, default=128, help="of ViT-L/14")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=10, help="timed in a repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.exit(2, "No CUDA GPU is visible to torch here. On the CPU, to see that the code runs: --device cpu --tiny\n")
    if options.device == "cpu" and not options.tiny:
        parser.exit(2, "On a CPU this makes no sense at full size. Add --tiny, or take benchmarks/training.py.\n")
    if options.tiny:
        options.batch, options.large_batch, options.classes, options.steps, options.repeats = 4, 2, 12, 1, 2
    record = measure(options, torch.device(options.device))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record["summary"], indent=1))


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    names = class_names(options.classes)
    small, large = ("random:tiny", "random:tiny") if options.tiny else ("random:ViT-B-32", "random:ViT-L-14")
    sizes = (64, 128) if options.tiny else None
    memory = {  # before anything else is on the device
        f"{name}, checkpointing {'on' if on else 'off'}": memory_per_image(name, names, batch, device, on)
        for name, batch in ((small, options.batch), (large, options.large_batch))
        for on in (False, True)
    }
    peak = matmul_peak("bf16", device, sizes)["best"]
    operations = step_operations(built(small, torch.device("cpu")), names)
    jobs = {
        "tima": our_step(small, names, options.batch, device, compile=False),
        "tima compiled": our_step(small, names, options.batch, device, compile=not options.tiny),
        "the field's loop": field_step(small, names, options.batch, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(-1, options.repeats):
        for name, job in jobs.items():
            wait(device)
            began = time.perf_counter()
            for _ in range(options.steps if number >= 0 else 3):  # the first round compiles and records
                job()
            wait(device)
            if number >= 0:
                seconds[name].append((time.perf_counter() - began) / options.steps)
        peak = max(peak, matmul_peak("bf16", device, sizes, tries=2)["best"])  # of the same weather as the jobs
    summary: dict[str, Any] = {"device": device.type, "figures": not options.tiny}
    for name in ("tima", "tima compiled"):
        work = operations["image"] * options.batch + operations["texts"]
        share = [work / s / 1e9 / peak for s in seconds[name]]
        ratio = [theirs / mine for theirs, mine in zip(seconds["the field's loop"], seconds[name], strict=True)]
        summary[name] = {"share of the bf16 peak": three(share), "times the field's loop": three(ratio)}
        summary[name]["images/s"] = options.batch / median(seconds[name])
        summary[name]["seconds for ten epochs of 100,000"] = 1e6 / options.batch * median(seconds[name])
    return {
        **{"summary": summary, "targets": TARGETS, "seconds": seconds, "peak_bf16_gflops": peak, "memory": memory},
        **{"operations": operations, "batch": options.batch, "classes": options.classes},
        **{"notes": {name: getattr(job, "notes", []) for name, job in jobs.items()}},
        **{"machine": machine(), "versions": versions()},
    }


def three(values: list[float]) -> list[float]:
    return [min(values), median(values), max(values)]


def built(name: str, device: torch.device) -> DualEncoder:
    with tempfile.TemporaryDirectory() as folder:
        return load_model(str(write_random(name, Path(folder) / "m"))).to(device)


def step_operations(model: DualEncoder, names: list[str]) -> dict[str, float]:
    """Of one TIMA step with PGD-2 and the last iterate: two attack steps, update and teacher an image; all class texts."""
    id_CL = model.tokenize([f"a photo of a {name}." for name in names])["input_ids"]
    # the words with which all prompts begin are worked out once for all of them, which is next to nothing
    own = id_CL.shape[1] - shared_tokens(id_CL, ends(id_CL, model.backbone.config.text_config.eos_token_id))
    shape = shape_of(model, own)
    assert shape is not None
    tower, text = replace(shape.image, last_token_only=True), shape.text
    image = 2 * (tower.forward + tower.backward_input) + tower.forward + tower.backward_weights + tower.forward
    return {"image": image, "texts": (text.forward + text.backward_weights) * len(names)}


def batch_of(model: DualEncoder, batch: int) -> tuple[Tensor, Tensor]:
    generator, side = torch.Generator().manual_seed(0), model.image_size
    image = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=generator)
    return image, torch.randint(10, (batch,), generator=generator)


def our_step(
    name: str, names: list[str], batch: int, device: torch.device, *, compile: bool, checkpointing: bool = False
) -> Callable[[], None]:
    recipe = TrainRecipe(
        method="tima",
        eps=EPS,
        lr=1e-5,
        augment="flip",
        attack=AttackSettings(steps=2, keep_best=False),
        precision="bf16",
        compile=compile,
        gradient_checkpointing=checkpointing,
    )
    student, teacher, method = built(name, device), built(name, device).requires_grad_(False), Tima()
    notes = quicken(student, teacher, recipe, device)
    params = method.trainable(student.requires_grad_(False))
    for p in params.values():
        p.requires_grad_(True)
    objective = Objective(student, teacher, method, names, recipe.templates, recipe.attack).to(device)
    optimizer = build_optimizer(recipe, student, params, Modifiers([]))
    image_BCHW, label_B = batch_of(student, batch)
    if device.type == "cuda":
        image_BCHW = image_BCHW.pin_memory()
    accelerator: Any = SimpleNamespace(device=device, backward=lambda loss: loss.backward())
    state, out = Progress(), Path("no-run")  # of which only a message about NaN would speak

    def step() -> None:
        here = TrainBatch(image_BCHW.to(device, non_blocking=True), label_B.to(device))
        update(objective, optimizer, accelerator, recipe, 0, here, EPS, params, Modifiers([]), state, out)

    step.notes = notes  # type: ignore[attr-defined]
    return step


def field_step(name: str, names: list[str], batch: int, device: torch.device) -> Callable[[], None]:
    """One step of the usual loop. TIMA's terms are left out of it (cross-entropy alone), which makes it faster, not slower."""
    model = built(name, device).requires_grad_(True)
    with torch.no_grad():
        text_CD = model.encode_text([f"a photo of a {n}." for n in names])
    tower: nn.Module = ImageLogits(model, text_CD)
    if device.type == "cuda":
        tower = nn.DataParallel(tower, device_ids=[torch.cuda.current_device()])  # ours uses one, too
    params = list(model.image_parameters().values())
    optimizer = torch.optim.SGD(params, lr=1e-5, momentum=0.9)
    kind = torch.float16 if device.type == "cuda" else torch.bfloat16  # CPUs have no fast fp16
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")  # type: ignore[attr-defined]
    image_BCHW, label_B = batch_of(model, batch)

    def step() -> None:
        x, y = image_BCHW.to(device).float() / 255, label_B.to(device)
        delta = torch.empty_like(x).uniform_(-EPS, EPS)
        for _ in range(2):
            delta.requires_grad_(True)
            with torch.autocast(device.type, kind):
                loss = F.cross_entropy(tower((x + delta).clamp(0, 1)).float(), y)
            scaler.scale(loss).backward()
            assert delta.grad is not None
            delta = (delta + EPS * delta.grad.sign()).clamp(-EPS, EPS).detach()
        optimizer.zero_grad()
        with torch.autocast(device.type, kind):
            loss = F.cross_entropy(tower((x + delta).clamp(0, 1)).float(), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


class ImageLogits(nn.Module):
    """Pixels to logits against fixed texts, through the library's tower."""

    def __init__(self, model: DualEncoder, text_CD: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("text_CD", text_CD)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.model.logits(self.model.encode_image(image_BCHW), self.text_CD)


def memory_per_image(name: str, names: list[str], batch: int, device: torch.device, checkpointing: bool) -> dict[str, Any]:
    """Peak memory of a step with a whole and a half batch: their difference is what images cost. On CPU nothing counts it."""
    if device.type != "cuda":
        our_step(name, names, batch, device, compile=False, checkpointing=checkpointing)()
        return {"batch": batch, "GB": None, "MB per image": None}
    peaks = []
    for size in (batch // 2, batch):
        gc.collect()  # models and the weights kept for them point at each other: the last size's would still be there
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            our_step(name, names, size, device, compile=False, checkpointing=checkpointing)()
        except torch.OutOfMemoryError:
            return {"batch": size, "GB": None, "MB per image": None, "note": "does not fit"}
        wait(device)
        peaks.append(torch.cuda.max_memory_allocated(device))
    return {"batch": batch, "GB": peaks[1] / 1e9, "MB per image": (peaks[1] - peaks[0]) / (batch - batch // 2) / 1e6}


if __name__ == "__main__":
    main()
