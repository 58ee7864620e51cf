"""MART on zero-shot logits: images that are wrong when clean count more.

Source: Wang et al., ICLR 2020 (openreview rklOg6EFwS), eq. 11. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tima.methods.base import Method, MethodConfig, Step
from tima.methods.baseline_terms import boosted_ce, misclassification_kl


class MartConfig(MethodConfig):
    """Settings of MART."""

    weight: float = Field(5.0, ge=0, description="the paper's lambda, weight of the weighted KL. known: 5 (eq. 11, section 4)")


class Mart(Method):
    """Boosted cross-entropy on adversarial images, and a KL weighted by how wrong the clean one is (known: the paper).

    The inner attack climbs the plain cross-entropy.
    """

    name: ClassVar[str] = "mart"
    Config: ClassVar[type[MethodConfig]] = MartConfig
    config: MartConfig

    def losses(self, step: Step) -> dict[str, Tensor]:
        # L = BCE(p(x_adv), y) + lambda mean_b [ KL(p(x) || p(x_adv)) (1 - p_y(x)) ]
        found = {"bce": boosted_ce(step.adv_BD, step.text0_CD, step.label_B, step.scale)}
        if self.config.weight > 0:
            kl = misclassification_kl(step.clean_BD, step.adv_BD, step.text0_CD, step.label_B, step.scale)
            found["kl"] = self.config.weight * kl
        return found
