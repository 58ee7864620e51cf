"""What is judged: a zero-shot classifier, or anything that maps pixels to logits.

Shapes: `B` images, `C` channels or classes, `D` embedding width.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tima._precision import has_bf16
from tima.errors import ModelError, RecipeError
from tima.models import DualEncoder, ZeroShotClassifier

LogitsFn = Callable[[Tensor], Tensor]
NO_BF16 = "attacked in fp32: this device has no bf16 arithmetic, and imitates it several times slower"


@dataclass
class Subject:
    """A classifier as the evaluation sees it.

    Attributes:
        name: for messages.
        exact: pixels in [0, 1] to logits in fp32: the judge.
        attacked: what attacks call; the same model, perhaps in bf16, with the attribute `exact` then.
        device: where its images must be.
        autocast: attacks run under bf16 autocast, for want of a faster way.
        text_CD: class embeddings, where there are any.
        logit_scale: the temperature's inverse, where there is one.
        notes: what attacking could not do as asked.
    """

    name: str
    exact: LogitsFn
    attacked: LogitsFn
    device: torch.device
    autocast: bool = False
    text_CD: Tensor | None = None
    logit_scale: float | None = None
    notes: list[str] = field(default_factory=list)


def zero_shot_subject(
    model: DualEncoder,
    class_names: Sequence[str],
    templates: Sequence[str],
    precision: str,
    compile: bool,
    class_C: Tensor | None = None,
) -> Subject:
    """A dual encoder with its class texts. Call it inside `as_judged`. `class_C`: which text each logit is of, where some
    classes share one; by default each has its own."""
    classifier = ZeroShotClassifier(model, class_names, templates)
    if class_C is not None:
        classifier.text_CD = classifier.text_CD[class_C.to(classifier.text_CD.device)]
    attacked = _attacked(classifier, precision, compile)
    return Subject(
        model.name,
        classifier,
        attacked,
        classifier.text_CD.device,
        text_CD=classifier.text_CD,
        logit_scale=float(model.logit_scale.detach()),
        notes=getattr(attacked, "notes", []),
    )


def plain_subject(logits_fn: LogitsFn, name: str, device: torch.device, precision: str) -> Subject:
    """Any classifier. A module's bf16 is autocast, since nobody knows its layers."""
    precision, notes = _possible(precision, device)
    return Subject(name, logits_fn, logits_fn, device, autocast=precision == "bf16", notes=notes)


def _attacked(classifier: ZeroShotClassifier, precision: str, compile: bool) -> Any:
    """What attacks call."""
    if precision == "fp32" and not compile:
        return classifier
    from tima.models.fast import attack_model

    precision, notes = _possible(precision, classifier.text_CD.device)
    attacked = attack_model(classifier, precision, compile)
    attacked.notes.extend(notes)
    return attacked


def _possible(precision: str, device: torch.device) -> tuple[str, list[str]]:
    """A protocol's `bf16` lets attacks run so, for speed, and is taken where it has that."""
    if precision == "bf16" and not has_bf16(device):
        return "fp32", [NO_BF16]
    return precision, []


def device_of(logits_fn: LogitsFn) -> torch.device:
    """Where a module's weights are; the CPU for a plain function."""
    if isinstance(logits_fn, nn.Module):
        for tensor in (*logits_fn.parameters(), *logits_fn.buffers()):
            return tensor.device
    return torch.device("cpu")


def weights_sha256(model: nn.Module) -> str:
    """Hash of every parameter and buffer (normalisation included) by name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checkpoint_sha256(logits_fn: LogitsFn, checkpoint: str | None, kept: bool) -> str:
    """What tells this classifier's results from another's.

    Raises:
        RecipeError: a function without weights, whose results are to be kept.
    """
    if checkpoint is not None:
        return hashlib.sha256(checkpoint.encode()).hexdigest()
    if isinstance(logits_fn, nn.Module):
        text = "\n".join([weights_sha256(logits_fn), *_settings(logits_fn)])
        return hashlib.sha256(text.encode()).hexdigest()
    if kept:
        raise RecipeError(
            "This classifier is a function, so nothing tells its results from those of another one. Hand in an nn.Module, or "
            "checkpoint='any text that you change with the function'."
        )
    return hashlib.sha256(b"a function").hexdigest()


def _settings(module: nn.Module) -> Iterator[str]:
    """What no weight says of a classifier: its layers and their plain settings, such as the bits that a defence leaves."""
    for place, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if isinstance(v, (bool, int, float, str)) and k != "training"}
        yield f"{place} {type(part).__qualname__} {sorted(plain.items())}"


@contextmanager
def as_judged(model: Any) -> Iterator[None]:
    """Evaluation mode, weights without gradients, true fp32 arithmetic; everything as before afterwards."""
    module = model if isinstance(model, nn.Module) else nn.Identity()
    modes = {part: part.training for part in module.modules()}
    wanted = [p.requires_grad for p in module.parameters()]
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for parameter, flag in zip(module.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


def exact_logits(subject: Subject, image_BCHW: Tensor, where: str) -> Tensor:
    """Logits in fp32, checked.

    Raises:
        ModelError: something else than finite logits `B x C`.
    """
    with torch.no_grad(), torch.autocast(subject.device.type, enabled=False):
        logits_BC = subject.exact(image_BCHW.to(subject.device))
    if not isinstance(logits_BC, Tensor) or logits_BC.ndim != 2 or len(logits_BC) != len(image_BCHW):
        shape = tuple(logits_BC.shape) if isinstance(logits_BC, Tensor) else type(logits_BC).__name__
        raise ModelError(f"'{subject.name}' must return logits B x C; for {len(image_BCHW)} images it returned {shape}.")
    logits_BC = logits_BC.float()
    if not bool(logits_BC.isfinite().all()):
        raise ModelError(
            f"'{subject.name}' returns NaN or infinite logits on '{where}'. A score from such a model means nothing; check the "
            "checkpoint for NaN weights."
        )
    return logits_BC
