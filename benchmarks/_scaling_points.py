"""One point of a scaling curve: measured in a process of its own, so that its memory is its own.

Memory is the process's largest resident set while it worked, less what it held just before (model, data). Time is the median of
the repeats after one that warms up. The kernel's peak is set back in between where it lets itself (Linux).
Shapes: `B` images, `C` classes, `D` embedding width.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _memory import give_back_freed, memory
from _words import class_names

from tima.class_sample import draw_classes
from tima.config import AttackSettings
from tima.data import ImageSet, find_data
from tima.methods import find_method, terms
from tima.models import DualEncoder, encode_classes, load_model
from tima.objective import Objective

EPS = 4 / 255


def measured(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds and extra memory of `work`; `repeats` 0 counts the first call."""
    if repeats:
        work()
    give_back_freed()
    held = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    seconds = []
    for _ in range(max(repeats, 1)):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    peak = memory("VmHWM")
    return {"seconds": statistics.median(seconds), "mb": peak, "extra_mb": peak - held, "repeats": len(seconds)}


def model_at(image_size: int) -> DualEncoder:
    """Nano; at another image size its architecture with random weights."""
    nano = load_model("nano")
    if image_size == nano.image_size:
        return nano
    from transformers import CLIPModel

    from tima.models.hugging_face import HuggingFaceEncoder

    config = nano.backbone.config
    config.vision_config.image_size = image_size
    mean, std = (x.flatten().tolist() for x in (nano.mean_C11, nano.std_C11))
    return HuggingFaceEncoder(CLIPModel(config), nano.tokenizer, mean=mean, std=std, name="nano's shape")


def step(
    *,
    method: str = "tima",
    batch: int = 64,
    image_size: int = 48,
    classes: int = 300,
    steps: int = 2,
    max_classes: int | None = None,
    repeats: int = 3,
) -> dict[str, float]:
    """An optimiser step as the trainer makes it: class texts, attack, losses, backward, AdamW; bf16."""
    torch.manual_seed(0)
    chosen = find_method(method)()
    models = [model_at(image_size) for _ in range(2 if chosen.needs_teacher else 1)]
    for model in models:
        model.requires_grad_(False)
        model.use_attention("eager")
        model.use_lean(torch.bfloat16)
    student, teacher = models[0], models[1] if len(models) > 1 else None
    params = list(chosen.trainable(student).values())
    for p in params:
        p.requires_grad_(True)
    settings = AttackSettings(steps=steps)
    objective = Objective(student, teacher, chosen, class_names(classes), ["a photo of a {c}."], settings)
    optimizer = torch.optim.AdamW(params, lr=1e-5)
    image, label = torch.rand(batch, 3, image_size, image_size), torch.arange(batch) % classes
    sample = draw_classes(classes, label, max_classes, 0, correct=True)

    def work() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            outcome = objective(image, label, EPS, EPS, torch.Generator().manual_seed(0), classes=sample)
        torch.stack([term.float() for term in outcome.terms.values()]).sum().backward()
        optimizer.step()

    return measured(work, repeats)


def term(*, name: str, classes: int, width: int = 512, repeats: int = 2) -> dict[str, float]:
    """One of the terms that look at pairs of classes, forward and backward, on texts that are given."""
    torch.manual_seed(0)
    text_CD = F.normalize(torch.randn(classes, width) + 1.0, dim=-1).requires_grad_()
    text0_CD = F.normalize(text_CD.detach() + 0.1 * torch.randn(classes, width), dim=-1)
    image_BD, label_B = F.normalize(torch.randn(64, width), dim=-1), torch.arange(64) % classes
    column_K = torch.randperm(classes)[:4096]
    limits = terms.asam_limits(text0_CD) if name == "margin" else None
    work = {
        "mhe": lambda: terms.mhe(text_CD),
        "mhe, 4096 drawn": lambda: terms.mhe(text_CD, 2.0, column_K if classes > 4096 else None),
        "consistency": lambda: terms.semantic_consistency(text_CD, text0_CD),
        "margin": lambda: terms.margin_ce(
            image_BD, text_CD, label_B, 50.0, terms.asam_margin(text0_CD, 0.1, 0.1, label_B=label_B, limits=limits)
        ),
        "iakd": lambda: terms.iakd(image_BD, text_CD, text0_CD, 50.0),
    }
    if name == "limits":  # once for a run, no gradient
        return measured(lambda: terms.asam_limits(text0_CD), repeats)
    return measured(lambda: torch.autograd.grad(work[name](), text_CD), repeats)


def texts(*, classes: int, repeats: int = 1) -> dict[str, float]:
    """The class texts of an evaluation."""
    model, names = load_model("nano"), class_names(classes)

    def work() -> None:
        with torch.no_grad():
            encode_classes(model, names)

    return measured(work, repeats)


def pictures(n: int, classes: int) -> ImageSet:
    """`n` pictures: those of `cifar10` over and over, under as many class names as wanted."""
    real = find_data("cifar10", image_size=48)
    names = class_names(classes)
    read, count = real.read, len(real)
    return ImageSet(
        "many", names, torch.arange(n) % classes, lambda i: read(i % count), lambda i: f"picture {i}", image_size=48
    )


def evaluation(*, images: int = 200, classes: int = 300, repeats: int = 0) -> dict[str, float]:
    """`evaluate` with two steps of PGD at one eps, in batches of 100, into a folder."""
    from tima.evaluate import evaluate
    from tima.protocols import load_protocol

    model, data = load_model("nano"), pictures(images, classes)
    protocol = load_protocol("pgd").override(eps=["4/255"], attack_params={"steps": 2}, health_probe=0, samples=None)

    def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            evaluate(model, data, protocol, out=Path(folder), batch_size=100, progress=False)

    if not repeats:  # what a first call costs whatever its size: libraries, threads
        with tempfile.TemporaryDirectory() as folder:
            evaluate(model, pictures(100, 10), protocol, out=Path(folder), batch_size=100, progress=False)
    return measured(work, repeats)


KINDS: dict[str, Callable[..., dict[str, float]]] = {"step": step, "term": term, "texts": texts, "evaluation": evaluation}

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    kind = asked.pop("kind")
    print("RESULT " + json.dumps(KINDS[kind](**asked)))
