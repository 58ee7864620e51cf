"""The images that indicators look at, with what is known about them.

Shapes: `B` images of the probe, `S` of them that still stand, `R` that are right when clean, `C` channels or classes,
`H, W` pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from tima.attacks.counting import GradientStats
from tima.attacks.losses import LogitsFn, ce, margin
from tima.results import AttackRecord

SCALE_FREE = ("dlr", "margin", "cw", "dlr_targeted")  # losses whose gradient does not vanish with confidence
SCALE_FREE_STAGES = ("apgd-dlr", "apgd-t", "fab", "fab-t", "cw")


Found = TypeVar("Found")


class Memory:
    """What of a probe does not depend on eps, kept from one eps to the next.

    Good for one model with the same images, labels, stages, precision and seed; `assess` cannot see whether they are.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Found]) -> Found:
        """What `make` returned when it was first asked for `name`."""
        if name not in self._kept:
            self._kept[name] = make()
        found: Found = self._kept[name]
        return found


@dataclass(frozen=True)
class Probe:
    """Everything an indicator may ask. See `assess` for the fields."""

    logits_fn: LogitsFn
    image_BCHW: Tensor
    label_B: Tensor
    eps: float
    adversarial_BCHW: Tensor
    robust_B: Tensor
    norm: str
    classes: int
    stages: Sequence[AttackRecord]
    gradients: GradientStats | None
    standing_n: int
    reference: LogitsFn | None
    attack_fn: LogitsFn | None
    logit_scale: float | None
    seed: int
    memory: Memory = field(default_factory=Memory)

    @property
    def clean_BC(self) -> Tensor:
        """Logits of the clean images."""
        return self.memory.once("clean logits", lambda: self.logits(self.image_BCHW))

    @cached_property
    def right_B(self) -> Tensor:
        """Images that are right when clean: only they can be broken."""
        return self.clean_BC.argmax(1) == self.label_B

    @cached_property
    def standing_B(self) -> Tensor:
        """Images that are right when clean and that the evaluation's attack did not break."""
        return self.right_B & self.robust_B.bool()

    @cached_property
    def scale_free(self) -> bool:
        """Did any attack of the evaluation climb a loss that a saturated softmax cannot flatten?"""
        return any(s.name in SCALE_FREE_STAGES or s.params.get("loss") in SCALE_FREE for s in self.stages)

    @property
    def clean_gradients(self) -> tuple[Tensor, Tensor]:
        """Pixel gradients of cross-entropy and of the margin at the clean images, each `BxCxHxW`."""

        def look(loss: Callable[..., Tensor]) -> Tensor:
            return pixel_gradient(self.logits_fn, self.image_BCHW, self.label_B, loss)

        return self.memory.once("clean gradients", lambda: (look(ce), look(margin)))

    def logits(self, image_BCHW: Tensor, logits_fn: LogitsFn | None = None) -> Tensor:
        """Fp32 logits without a graph, of the judged model by default."""
        with torch.no_grad():
            return (logits_fn or self.logits_fn)(image_BCHW).float()

    def generators(self, index: Tensor) -> list[torch.Generator]:
        """Random numbers of their own for some images of the probe."""
        return [torch.Generator().manual_seed(self.seed * 100_003 + i) for i in index.tolist()]

    def run(self, attack: Callable[..., Tensor], chosen_B: Tensor, **params: Any) -> tuple[Tensor, Tensor]:
        """Attack some images at `eps` (or another one in `params`), with random numbers of their own.

        Returns:
            adversarial images and which of them are misclassified by the judged model, in the order of the chosen ones.
        """
        model = params.pop("logits_fn", self.logits_fn)
        index = chosen_B.nonzero()[:, 0]
        words = {"eps": self.eps, "norm": self.norm, **params}
        adv = attack(model, self.image_BCHW[index], self.label_B[index], generator=self.generators(index), **words).detach()
        return adv, self.logits(adv).argmax(1) != self.label_B[index]


def pixel_gradient(logits_fn: LogitsFn, image_BCHW: Tensor, label_B: Tensor, loss: Callable[..., Tensor]) -> Tensor:
    """Gradient of the summed loss, `BxCxHxW`; zeros where no path leads from the logits to the pixels."""
    with torch.enable_grad():
        x_BCHW = image_BCHW.detach().requires_grad_(True)
        loss_B = loss(logits_fn(x_BCHW), label_B)
        if not loss_B.requires_grad:
            return torch.zeros_like(image_BCHW)
        (gradient,) = torch.autograd.grad(loss_B.sum(), x_BCHW, allow_unused=True)
    return torch.zeros_like(image_BCHW) if gradient is None else gradient.detach()


def moved_sign_mass(first_BCHW: Tensor, second_BCHW: Tensor) -> float:
    """Share of the first gradient's absolute mass where the second has another sign: what rounding flips has no mass."""
    weight = first_BCHW.abs().double()
    weight = weight / weight.flatten(1).sum(1).clamp(min=1e-300)[:, None, None, None]  # every image counts the same
    alive = int((weight.flatten(1).sum(1) > 0).sum())
    return float((weight * (first_BCHW.sign() != second_BCHW.sign())).sum()) / max(alive, 1)
