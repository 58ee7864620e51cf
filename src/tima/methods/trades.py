"""TRADES on zero-shot logits: accuracy on clean images against smoothness around them.

Source: Zhang et al., ICML 2019, arXiv 1901.08573, eq. 5. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tima.methods.base import Method, MethodConfig, Step
from tima.methods.baseline_terms import kl_both
from tima.methods.terms import margin_ce


class TradesConfig(MethodConfig):
    """Settings of TRADES."""

    beta: float = Field(6.0, ge=0, description="weight of the KL, the paper's 1 / lambda. known: 6 (arXiv 1901.08573)")


class Trades(Method):
    """Clean cross-entropy plus the KL from the clean to the adversarial prediction (known: arXiv 1901.08573).

    The inner attack climbs that KL. It starts uniformly in the ball as every method's does here, where the published code
    starts from a Gaussian of 0.001: at the clean image itself the KL has no gradient.
    """

    name: ClassVar[str] = "trades"
    Config: ClassVar[type[MethodConfig]] = TradesConfig
    config: TradesConfig
    attack_loss = "kl"

    def attack_target(self, step: Step) -> Tensor:
        """The student's clean logits, which the attack is driven away from."""
        with torch.no_grad():
            return step.student.logits(step.student.encode_image(step.image_BCHW), step.text0_CD)

    def losses(self, step: Step) -> dict[str, Tensor]:
        # L = CE(s v @ t0.T, y) + beta KL(P(x) || P(x_adv)), gradients into both predictions, means over the batch
        found = {"ce": margin_ce(step.clean_BD, step.text0_CD, step.label_B, step.scale)}
        if self.config.beta > 0:
            found["kl"] = self.config.beta * kl_both(step.clean_BD, step.adv_BD, step.text0_CD, step.scale)
        return found
