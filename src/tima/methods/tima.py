"""TIMA, AAAI 2026 (40(29):24235-24243): the default method.

Built as the first version (`tima_v1.py`) with two replacements: the adaptive semantic-aware margin (ASAM) on the image
side, the semantic-consistent MHE (SC-MHE) on the text side. No official code exists; what is known and what is our
reading is marked at every setting here and at every formula in `terms.py`. Shapes: `B` images, `C` classes.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tima.attacks import LogitsFn
from tima.methods import terms
from tima.methods.base import MethodConfig, Step
from tima.methods.baseline_terms import scaled_logits
from tima.methods.tima_v1 import TimaV1, TimaV1Config
from tima.models import DualEncoder


class TimaConfig(TimaV1Config):
    """Settings of `tima`: those of `tima-v1`, and the following."""

    m0: float = Field(
        default=0.05,
        ge=0,
        description="constant part of the margin, cosine units (times s inside). "
        "known: the need (abstract); our reading: its form, the value",
    )
    margin_by: Literal["similarity", "distance", "constant"] = Field(
        default="similarity",
        description="what kappa scales, min-max scaled over the pairs of the frozen texts; constant: m0 alone. "
        "known: margins follow semantic similarity (abstract); our reading: the scaling",
    )
    margin_sign: Literal[1, -1] = Field(
        default=1, description="1: m0 + kappa rho; -1: m0 - kappa rho. our reading: 1, similar classes get the larger margin"
    )
    w_sc: float = Field(
        default=1.0,
        ge=0,
        description="weight of 1 - pearson inside L_SCMHE, so w_mhe multiplies it too; 0: plain MHE. "
        "known: the need (abstract); our reading: Pearson's correlation, the weight",
    )
    logit_scale: float | None = Field(
        default=None,
        gt=0,
        description="replaces the model's logit scale s (1 / temperature) in all losses and in the inner attack; the model "
        "keeps its own, and is judged with it. None: the model's own. our reading: where the papers' temperature study acts",
    )


class Tima(TimaV1):
    """Image and text tower tuned together, each with the other in view; margins by the texts' similarity (AAAI 2026).

    L = w_tam L_ASAM + w_takd L_TAKD + w_mhe (L_MHE + w_sc (1 - pearson)) + w_iakd L_IAKD.

    Known (abstract): ASAM and SC-MHE exist and what they are for. Our reading: their form, and that TAKD and IAKD stay.
    """

    name: ClassVar[str] = "tima"
    Config: ClassVar[type[MethodConfig]] = TimaConfig
    config: TimaConfig
    limits: tuple[float, float] | None = None

    def attack_output(self, student: DualEncoder, text_CD: Tensor) -> LogitsFn:
        """Logits at the scale of training."""
        scale, fixed_CD = self.config.logit_scale, text_CD.detach()
        if scale is None:
            return super().attack_output(student, fixed_CD)
        return lambda image_BCHW: scaled_logits(student.encode_image(image_BCHW), fixed_CD, scale)

    def losses(self, step: Step) -> dict[str, Tensor]:
        if self.config.logit_scale is not None:
            step.scale = torch.as_tensor(self.config.logit_scale, device=step.text_CD.device)  # in place of the model's own
        return super().losses(step)

    def prepare(self, text0_CD: Tensor, scale: Tensor) -> dict[str, nn.Parameter]:
        """What scales the margin: a constant of the whole class list, also where a step sees a sample of it."""
        self.limits = terms.asam_limits(text0_CD, self.config.margin_by)
        return super().prepare(text0_CD, scale)

    def margin(self, step: Step) -> Tensor | None:
        """`margin_BC` by the semantic similarity of the frozen texts, or None. Without `prepare` it is scaled by the step's."""
        c = self.config
        if c.m0 == 0 and (c.kappa == 0 or c.margin_by == "constant"):
            return None
        return terms.asam_margin(step.text0_CD, c.kappa, c.m0, c.margin_by, c.margin_sign, step.label_B, self.limits)

    @property
    def consistency_weight(self) -> float:
        """`L_SCMHE = L_MHE + w_sc (1 - pearson)`: the outer weight is MHE's."""
        return self.config.w_mhe * self.config.w_sc
