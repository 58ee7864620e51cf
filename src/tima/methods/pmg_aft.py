"""PMG-AFT: the frozen original guides adversarial fine-tuning.

Source: Wang et al., CVPR 2024, arXiv 2401.04350. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tima.methods.base import Method, MethodConfig, Step
from tima.methods.baseline_terms import kl_both
from tima.methods.terms import margin_ce, takd


class PmgAftConfig(MethodConfig):
    """Settings of PMG-AFT."""

    w_teacher: float = Field(
        1.0, ge=0, description="weight of the KL from the original on the adversarial image. known: 1 (published code)"
    )
    w_clean: float = Field(
        1.0, ge=0, description="weight of the KL from the student's own clean prediction. known: 1 (published code)"
    )


class PmgAft(Method):
    """Cross-entropy, plus two pulls on the adversarial prediction (known: arXiv 2401.04350).

    `P` is the softmax of `s cos` over the class texts. The teacher sees the *adversarial* image. In the last term gradients
    flow into both predictions, as in the published code; the teacher never gets any (there it does, to no use).
    """

    name: ClassVar[str] = "pmg-aft"
    Config: ClassVar[type[MethodConfig]] = PmgAftConfig
    config: PmgAftConfig
    teacher_sees_clean = False

    @property
    def needs_teacher(self) -> bool:
        return self.config.w_teacher > 0

    def losses(self, step: Step) -> dict[str, Tensor]:
        c = self.config
        # L = CE(s a @ t0.T, y) + w_teacher KL(P0(x_adv) || P(x_adv)) + w_clean KL(P(x) || P(x_adv)), means over the batch
        found = {"ce": margin_ce(step.adv_BD, step.text0_CD, step.label_B, step.scale)}
        if c.w_teacher > 0:
            found["teacher"] = c.w_teacher * takd(step.teacher_adv_BD, step.adv_BD, step.text0_CD, step.scale)
        if c.w_clean > 0:
            found["clean"] = c.w_clean * kl_both(step.clean_BD, step.adv_BD, step.text0_CD, step.scale)
        return found
