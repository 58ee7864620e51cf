"""What `training.py` times: attacks and training steps of ours, of other libraries, and as the field writes them.

Every job is a function without arguments that does one piece of work. Shapes: `B` images, `C` classes, `H, W` pixels.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from _peers import RUNS
from torch import Tensor

from tima.attacks import pgd
from tima.class_sample import draw_classes
from tima.config import AttackSettings, TrainRecipe
from tima.methods.tecoa import TeCoA
from tima.methods.tima import Tima
from tima.methods.tima_v1 import TimaV1Config
from tima.models import DualEncoder, ZeroShotClassifier
from tima.models.fast import attack_model
from tima.modifiers import Modifiers
from tima.objective import Objective
from tima.train import build_optimizer
from tima.train_batch import TrainBatch
from tima.train_speed import quicken
from tima.train_step import update

Job = Callable[[], object]
EPS = 4 / 255
OPTIMIZERS: dict[Any, torch.optim.Optimizer] = {}


def attack_jobs(
    classifier: ZeroShotClassifier, image_BCHW: Tensor, label_B: Tensor, steps: int, compile: bool
) -> dict[str, Job]:
    """PGD of `steps` steps over one batch: the same steps for all, the last iterate is returned."""
    batch = len(label_B)
    jobs: dict[str, Job] = {"plain transformers loop": lambda: plain_pgd(classifier, image_BCHW, label_B, steps)}
    for library in ("torchattacks", "foolbox", "art"):
        run = RUNS["pgd"][library]
        jobs[library] = lambda run=run: run(classifier, image_BCHW, label_B, EPS, {"steps": steps}, 0, batch)  # type: ignore[misc]
    for name, on in (("tima", False), ("tima compiled", True)) if compile else (("tima", False),):
        fast = attack_model(classifier, "bf16", on)
        words: dict[str, Any] = {"steps": steps, "keep_best": False}
        jobs[name] = lambda fast=fast, words=words: pgd(fast, image_BCHW, label_B, EPS, **words)  # type: ignore[misc]
    return jobs


def plain_pgd(
    model: Callable[[Tensor], Tensor], image_BCHW: Tensor, label_B: Tensor, steps: int, into_weights: bool = False
) -> Tensor:
    """PGD as one would write it on a page; `into_weights` as the field's training code does, with `loss.backward()`."""
    adv = (image_BCHW + torch.empty_like(image_BCHW).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        loss = F.cross_entropy(model(adv), label_B)
        if into_weights:
            loss.backward()
            gradient = adv.grad
        else:
            (gradient,) = torch.autograd.grad(loss, adv)
        assert gradient is not None
        adv = adv.detach() + 2.5 * EPS / steps * gradient.sign()
        adv = torch.max(torch.min(adv, image_BCHW + EPS), image_BCHW - EPS).clamp(0, 1)
    return adv.detach()


def plain_tecoa(model: DualEncoder, names: list[str], image_BCHW: Tensor, label_B: Tensor, into_weights: bool) -> Job:
    """TeCoA in fp32 with transformers alone: class texts once, PGD-2, cross-entropy, AdamW. As users would write it."""
    with torch.no_grad():
        text_CD = F.normalize(model.encode_text([f"a photo of a {name}." for name in names]), dim=-1)
    params = list(model.image_parameters().values())
    optimizer = torch.optim.AdamW(params, lr=1e-5)

    def logits(x: Tensor) -> Tensor:
        feature = model._image_features((x - model.mean_C11) / model.std_C11)  # the library's own forward
        return model.logit_scale.detach() * F.normalize(feature, dim=-1) @ text_CD.T

    def step() -> None:
        for p in params:
            p.requires_grad_(True)
        adv = plain_pgd(logits, image_BCHW, label_B, 2, into_weights)
        optimizer.zero_grad()
        F.cross_entropy(logits(adv), label_B).backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    return step


def our_step(
    student: DualEncoder,
    teacher: DualEncoder | None,
    names: list[str],
    image_BCHW: Tensor,
    label_B: Tensor,
    *,
    method: str,
    compile: bool,
    text_tower: str = "full",
    max_classes: int | None = None,
    keep_best: bool = True,
) -> Job:
    """One optimiser step of the trainer's own code, as a recipe asks for it."""
    recipe = TrainRecipe(
        method=method,
        eps=EPS,
        lr=1e-5,
        augment="none",
        attack=AttackSettings(steps=2, keep_best=keep_best),
        precision="bf16",  # what the targets are about; `auto` is decided by `train` alone
        compile=compile,
        max_classes=max_classes,
    )
    settings: Any = Tima.Config(text_tower=text_tower) if method == "tima" else None
    assert settings is None or isinstance(settings, TimaV1Config)
    chosen = Tima(settings) if method == "tima" else TeCoA()
    pixel_BCHW = (image_BCHW * 255).round().to(torch.uint8)
    state: dict[str, Any] = {}

    def prepare() -> None:
        """Jobs share their models: each sets what trains and how before its step."""
        student.requires_grad_(False)
        for model in (m for m in (student, teacher) if m is not None):
            model.use_compile(None)
            model.use_lean(None)
        if not state:
            state["objective"] = Objective(student, teacher, chosen, names, recipe.templates, recipe.attack)
            state["params"] = chosen.trainable(student)
            kind = (id(student), tuple(state["params"]))  # one for jobs that train the same: two moments a weight are large
            if kind not in OPTIMIZERS:
                OPTIMIZERS[kind] = build_optimizer(recipe, student, state["params"], Modifiers([]))
            state["optimizer"] = OPTIMIZERS[kind]
            state["notes"] = quicken(student, teacher, recipe, torch.device("cpu"))
        else:
            for model, kept in state["kept"]:
                model.__dict__.update(kept)
        for p in state["params"].values():
            p.requires_grad_(True)

    accelerator = SimpleNamespace(device=torch.device("cpu"), backward=lambda loss: loss.backward())

    def step() -> None:
        classes = draw_classes(len(names), label_B, max_classes, 1, correct=True)
        batch = TrainBatch(pixel_BCHW, label_B, None, classes)
        update(
            *(state["objective"], state["optimizer"], accelerator, recipe, 0, batch, EPS, state["params"]),
            *(Modifiers([]), None, None),  # type: ignore[arg-type]
        )
        kept = ("_lean_dtype", "_lean_kept", "_lean_states", "_compiled")
        state["kept"] = [(m, {k: m.__dict__[k] for k in kept}) for m in (student, teacher) if m is not None]

    step.prepare = prepare  # type: ignore[attr-defined]
    step.state = state  # type: ignore[attr-defined]
    return step
