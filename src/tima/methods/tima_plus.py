"""TIMA and what we add to it. OURS: nothing here is the papers', and none of its numbers are theirs.

The two halves of `tima.py` unchanged, and two pulls on the attacked picture from outside the class list, because a pull
through the training classes alone says nothing about the classes that a zero-shot model will be asked about:

- towards the embedding that the original model gives the clean picture (FARE's term, arXiv 2402.12336);
- towards the student's own answer to the clean picture (TRADES' term, arXiv 1901.08573; PMG-AFT's, arXiv 2401.04350).

Shapes: `B` images, `D` embedding width.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tima.methods.base import MethodConfig, Step
from tima.methods.baseline_terms import kl_both
from tima.methods.tima import Tima, TimaConfig


class TimaPlusConfig(TimaConfig):
    """Settings of `tima-plus`: those of `tima`, with other defaults, and the following."""

    w_feature: float = Field(
        default=0.01,
        ge=0,
        description="weight of the squared l2 between the un-normalised embeddings of the student's adversarial and the "
        "teacher's clean image. ours; the term: FARE, arXiv 2402.12336",
    )
    w_consistency: float = Field(
        default=1.0,
        ge=0,
        description="weight of KL(P(x) || P(x_adv)) of the student, gradients into both (one more forward pass). ours; "
        "the term: PMG-AFT, arXiv 2401.04350",
    )


class TimaPlus(Tima):
    """L = L_tima + w_feature || f(x_adv) - f0(x) ||^2 + w_consistency KL(P(x) || P(x_adv)), both means over the batch."""

    name: ClassVar[str] = "tima-plus"
    Config: ClassVar[type[MethodConfig]] = TimaPlusConfig
    config: TimaPlusConfig

    def losses(self, step: Step) -> dict[str, Tensor]:
        found = super().losses(step)
        if self.config.w_consistency > 0:
            # (14) on the tuned texts, which this term does not move: it is about the pictures
            consistency = kl_both(step.clean_BD, step.adv_BD, step.text_CD.detach(), step.scale)
            found["consistency"] = self.config.w_consistency * consistency
        return found
