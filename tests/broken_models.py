"""A soundly trained small model, and models that are broken on purpose: each hides its weakness from one kind of attack.

Used by `tests/test_health.py` and `tools/health_table.py`. Shapes: `B` images, `C` classes, `H, W` pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tima.attacks import CountedModel, pgd
from tima.attacks.losses import margin
from tima.health import assess
from tima.results import AttackRecord, Health

EPS = 8 / 255
CLASSES = 4
PIXELS = 10


class Net(nn.Module):
    """A small convolutional classifier. The hooks are where the broken models differ."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 24, 3, 2, 1)
        self.head = nn.Linear(24 * 9, classes)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.logits(self.features(image_BCHW))

    def features(self, image_BCHW: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(image_BCHW * 4 - 2)))).flatten(1)

    def logits(self, feature_BD: Tensor) -> Tensor:
        return self.head(feature_BD)


def toy_data(n: int, seed: int, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Grey pictures with a pattern of their class, faint enough that eps matters, under noise."""
    pattern = torch.randn(classes, 3, 5, 5, generator=torch.Generator().manual_seed(7))
    pattern = F.interpolate(pattern, size=(PIXELS, PIXELS), mode="nearest").sign() * 0.04
    g = torch.Generator().manual_seed(seed)
    label_B = torch.arange(n) % classes
    return (0.5 + pattern[label_B] + 0.08 * torch.randn(n, 3, PIXELS, PIXELS, generator=g)).clamp(0, 1), label_B


def trained(adversarial: bool, classes: int = CLASSES, steps: int = 120) -> Net:
    """Some seconds of training, by PGD (Madry et al. 2018) or on clean images."""
    torch.manual_seed(0)
    net = Net(classes)
    image_NCHW, label_N = toy_data(512, seed=1, classes=classes)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(steps):
        index = torch.arange(64) + 64 * (step % 8)
        x_BCHW, label_B = image_NCHW[index], label_N[index]
        if adversarial:
            x_BCHW = pgd(net, x_BCHW, label_B, EPS, steps=4, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        F.cross_entropy(net(x_BCHW), label_B).backward()
        optimiser.step()
    return net.eval().requires_grad_(False)


class _LowRange(torch.autograd.Function):
    """Identity whose gradient is averaged over the batch and stored in fp16 with little room at the bottom."""

    @staticmethod
    def forward(ctx, x_BCHW: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        return x_BCHW.view_as(x_BCHW)

    @staticmethod
    def backward(ctx, gradient_BCHW: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        largest_B = gradient_BCHW.flatten(1).abs().amax(1)[:, None, None, None].clamp(min=1e-30)
        return (gradient_BCHW / largest_B * 4e-7 / len(gradient_BCHW)).half().float()


@dataclass(frozen=True)
class Case:
    """A model with what the evaluation would know about it, and the indicator that must fire (None: a sound one)."""

    name: str
    fires: str | None
    model: Callable[[Tensor], Tensor]
    attack_fn: Callable[[Tensor], Tensor] | None = None
    logit_scale: float | None = None


def cases(sound: Net, undefended: Net) -> list[Case]:
    """All models of the table."""

    def quantised(x: Tensor) -> Tensor:
        return sound.logits((sound.features(x) * 2).round() / 2)

    def rounds_input(x: Tensor) -> Tensor:
        return undefended((x * 6).round() / 6)

    def cancelled(x: Tensor) -> Tensor:
        return F.normalize(sound(x) * 100, dim=1)

    def random_layer(x: Tensor) -> Tensor:
        return sound.logits(F.dropout(sound.features(x), 0.3, training=True))

    def batch_statistics(x: Tensor) -> Tensor:
        feature = sound.features(x)
        return sound.logits(feature - feature.mean(0) + 0.5)

    return [
        Case("adversarially trained", None, sound),
        Case("undefended", None, undefended),
        Case("quantised activations", "zero gradients", quantised),
        Case("rounded input", "zero gradients", rounds_input),
        Case("cancelled temperature", "temperature", cancelled, logit_scale=100.0),
        Case("random layer", "randomness", random_layer),
        Case("saturated softmax", "saturation", lambda x: sound(x) * 1000),
        Case("low-range attack, mean over the batch", "batch invariance", sound, lambda x: sound(_LowRange.apply(x))),
        Case("statistics of the batch", "batch invariance", batch_statistics),
    ]


def judged(case: Case, *, n: int = 32, norm: str = "l_inf", eps: float = EPS, reference: Net | None = None) -> Health:
    """Attack as an evaluation does, PGD with 20 steps, and assess."""
    return assess(**evidence(case, n=n, norm=norm, eps=eps), reference=reference)


def evidence(
    case: Case, *, n: int = 32, norm: str = "l_inf", eps: float = EPS, classes: int = CLASSES, seed: int = 2
) -> dict[str, Any]:
    """What an evaluation hands to `assess` after PGD with 20 steps."""
    image_BCHW, label_B = toy_data(n, seed=seed, classes=classes)
    counted = CountedModel(case.attack_fn or case.model)
    generator = torch.Generator().manual_seed(3)
    adv_BCHW = pgd(counted, image_BCHW, label_B, eps, norm=norm, steps=20, generator=generator)
    with torch.no_grad():
        right_B = case.model(image_BCHW).argmax(1) == label_B
        robust_B = right_B & (margin(case.model(adv_BCHW), label_B) < 0)
    record = AttackRecord(name="pgd", params={"steps": 20}, broken=int((right_B & ~robust_B).sum()))
    return {
        "logits_fn": case.model,
        "image_BCHW": image_BCHW,
        "label_B": label_B,
        "eps": eps,
        "adversarial_BCHW": adv_BCHW,
        "robust_B": robust_B,
        "norm": norm,
        "classes": classes,
        "stages": [record],
        "gradients": counted.gradients,
        "standing_n": int(right_B.sum()),
        "attack_fn": case.attack_fn,
        "logit_scale": case.logit_scale,
    }
