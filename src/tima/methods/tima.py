"""TIMA, AAAI 2026 (40(29):24235-24243): the default method.

Built as the first version (`tima_v1.py`) with two replacements: the adaptive semantic-aware margin (ASAM) on the image
side, the semantic-consistent MHE (SC-MHE) on the text side. No official code exists; what is known and what is our
reading is marked at every setting here and at every formula in `terms.py`. Shapes: `C` classes.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tima.methods import terms
from tima.methods.base import MethodConfig, Step
from tima.methods.tima_v1 import TimaV1, TimaV1Config


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


class Tima(TimaV1):
    """L = w_tam L_ASAM + w_takd L_TAKD + w_mhe (L_MHE + w_sc (1 - pearson)) + w_iakd L_IAKD.

    Known (abstract): ASAM and SC-MHE exist and what they are for. Our reading: their form, and that TAKD and IAKD stay.
    """

    name: ClassVar[str] = "tima"
    Config: ClassVar[type[MethodConfig]] = TimaConfig
    config: TimaConfig

    def margin(self, step: Step) -> Tensor | None:
        """`margin_CC` by the semantic similarity of the frozen texts, or None."""
        c = self.config
        if c.m0 == 0 and (c.kappa == 0 or c.margin_by == "constant"):
            return None
        return terms.asam_margin(step.text0_CD, c.kappa, c.m0, by=c.margin_by, sign=c.margin_sign)

    @property
    def consistency_weight(self) -> float:
        """`L_SCMHE = L_MHE + w_sc (1 - pearson)`: the outer weight is MHE's."""
        return self.config.w_mhe * self.config.w_sc
