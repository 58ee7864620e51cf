"""What one training step asks of one device, phase by phase, in four kinds of work.

Operations in products with weights, operations in products of tokens with tokens, numbers touched by everything else, and layer
calls, which cost a little however small they are. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tima.bench.towers import Shape, Tower
from tima.methods.tima_v1 import TimaV1Config

KINDS = ("linear", "attention", "elements", "calls")
Work = tuple[float, float, float, float]
MHE_CLASSES: int = TimaV1Config.model_fields["mhe_classes"].default  # with which each class is paired at most
NONE: Work = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class StepWork:
    """One training step.

    Attributes:
        shape: of the model; the text tower's tokens are those of the longest prompt.
        batch: images on this device.
        classes: class texts in the losses.
        texts: encoded in a step, forward; `texts_backward` of them with a gradient.
        passes: forward and backward passes an image, by the names of `bench/probe.py`.
        trained: parameters that train.
        attack_steps: of the inner attack.
        lean: the last layer runs for one token (`models/lean.py`).
    """

    shape: Shape
    batch: int
    classes: int
    texts: float
    texts_backward: float
    passes: Mapping[str, float]
    trained: float
    attack_steps: int
    lean: bool

    @property
    def image(self) -> Tower:
        return replace(self.shape.image, last_token_only=True) if self.lean else self.shape.image

    @property
    def pixels(self) -> float:
        return self.batch * 3.0 * self.shape.image_size**2

    def recomputed(self) -> "StepWork":
        """The same with gradient checkpointing: every layer runs forward again before its backward pass, in the attack too."""
        p = dict(self.passes)
        for name in ("attack", "outer"):
            p[f"{name} forward"] = p.get(f"{name} forward", 0.0) + p.get(f"{name} backward", 0.0)
        return replace(self, passes=p, texts=self.texts + self.texts_backward)

    def phases(self) -> dict[str, Work]:
        """Work of the phases that run a tower or form losses."""
        b, p, t = self.batch, self.passes, self.image
        one = _forward(t, b)
        found = {
            "attack forward": _times(p.get("attack forward", 0.0), _sum(one, self._logits)),
            "attack backward": _times(p.get("attack backward", 0.0), _sum(_backward(t, b, weights=False), self._logits)),
            "teacher": _times(p.get("teacher forward", 0.0), one),
            "outer forward": _sum(_times(p.get("outer forward", 0.0), _sum(one, self._cast)), self._terms),
            "outer backward": _sum(
                _times(p.get("outer backward", 0.0), _sum(_backward(t, b, weights=True), self._cast)), _times(2.0, self._terms)
            ),
            "text forward": _forward(self.shape.text, self.texts) if self.texts else NONE,
            "text backward": _backward(self.shape.text, self.texts_backward, weights=True) if self.texts_backward else NONE,
        }
        return {name: work for name, work in found.items() if any(work)}

    @property
    def _logits(self) -> Work:
        """Products with the class texts, and the softmax."""
        return 2.0 * self.batch * self.classes * self.image.out, 0.0, 4.0 * self.batch * self.classes, 0.0

    @property
    def _terms(self) -> Work:
        """Losses: logits; where the texts train, pairs of classes besides."""
        pairs = float(self.classes) * min(self.classes, MHE_CLASSES) if self.texts_backward else 0.0
        logits = _times(3.0, self._logits)
        return _sum(logits, (6.0 * pairs * self.image.out, 0.0, 12.0 * pairs, 0.5))

    @property
    def _cast(self) -> Work:
        """Weights are cast to the compute type, and their gradients back."""
        return 0.0, 0.0, 3.0 * self.image.parameters, 0.0


def of_job(job: Mapping[str, Any], facts: Mapping[str, Any], shape: Shape) -> StepWork:
    """The step of a training that `tima bench` timed."""
    text = replace(shape.text, tokens=int(job["text_tokens"]))
    passes = dict(job["passes"])
    return StepWork(
        shape=replace(shape, text=text),
        batch=int(job["batch"]),
        classes=int(job["classes"]),
        texts=float(passes.get("texts", 0)),
        texts_backward=float(passes.get("texts backward", 0)),
        passes=passes,
        trained=float(job["trained"]),
        attack_steps=int(job["attack_steps"]),
        lean=bool(job["lean"]),
    )


def shape_from(facts: Mapping[str, Any]) -> Shape:
    """Back from the record."""
    found = facts["shape"]
    return Shape(Tower(**found["image"]), Tower(**found["text"]), found["image_size"], found["exact"])


def _forward(tower: Tower, count: float) -> Work:
    return (
        count * tower.linear,
        count * tower.attention,
        count * tower.elements + tower.layers * 12.0 * tower.width**2,
        tower.layers,
    )


def _backward(tower: Tower, count: float, *, weights: bool) -> Work:
    linear = 2 * tower.linear - tower.embedding if weights else tower.linear
    reads = tower.layers * 12.0 * tower.width**2 * (2 if weights else 1)
    calls = tower.layers * (2.0 if weights else 1.3)
    return count * linear, count * 2 * tower.attention, 2 * count * tower.elements + reads, calls


def _sum(*works: Work) -> Work:
    a, b, c, d = (sum(column) for column in zip(*works, strict=True))
    return a, b, c, d


def _times(factor: float, work: Work) -> Work:
    a, b, c, d = work
    return factor * a, factor * b, factor * c, factor * d
