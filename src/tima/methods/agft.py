"""AGFT: the original's softened answers about clean images are the targets for adversarial ones.

Source: CVPR 2026, arXiv 2603.29410. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tima.attacks import LogitsFn
from tima.methods.base import Method, MethodConfig, Step
from tima.methods.baseline_terms import scaled_logits, soft_ce, soft_target
from tima.models import DualEncoder


class AgftConfig(MethodConfig):
    """Settings of AGFT."""

    scale: float = Field(180.0, gt=0, description="replaces the model's logit scale in the loss. known: 180 (arXiv 2603.29410)")
    soften: float = Field(0.4, gt=0, description="the target's scale is this share of it. known: 0.4 (arXiv 2603.29410)")


class Agft(Method):
    """Cross-entropy of the adversarial prediction against a soft label from the frozen model (known: arXiv 2603.29410).

    Labels take no part: the right class counts as much as the original believes in it. The inner attack climbs the same loss.
    """

    name: ClassVar[str] = "agft"
    Config: ClassVar[type[MethodConfig]] = AgftConfig
    config: AgftConfig
    attack_loss = "ce_soft"

    @property
    def needs_teacher(self) -> bool:
        return True

    def attack_output(self, student: DualEncoder, text_CD: Tensor) -> LogitsFn:
        """Logits at the method's own scale."""
        fixed_CD = text_CD.detach()
        return lambda image_BCHW: scaled_logits(student.encode_image(image_BCHW), fixed_CD, self.config.scale)

    def attack_target(self, step: Step) -> Tensor:
        """Soft labels `BxC`: softmax(soften * scale * v0 @ t0.T)."""
        return soft_target(step.teacher_BD, step.text0_CD, self.config.soften * self.config.scale)

    def losses(self, step: Step) -> dict[str, Tensor]:
        # L = - sum_c q_bc log softmax(180 a @ t0.T)_bc, q = softmax(0.4 * 180 * v0 @ t0.T), mean over the batch
        return {"soft_ce": soft_ce(step.adv_BD, step.text0_CD, self.attack_target(step), self.config.scale)}
