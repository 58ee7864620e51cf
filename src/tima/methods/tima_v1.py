"""TIMA, first published version: arXiv 2405.17678 v1 (May 2024).

Two halves in one backward pass: the texts are tuned with the images in view (IAT: MHE + IAKD), the images with the
texts in view (TAI: TAM + TAKD). No official code exists; what is known and what is our reading is marked at every
setting here and at every formula in `terms.py`. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from collections.abc import Callable
from typing import ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from tima.methods import terms
from tima.methods.base import Method, MethodConfig, Step, TextTower


class TimaV1Config(MethodConfig):
    """Settings of `tima-v1`. The papers' constants are not available: every default is ours, not theirs."""

    text_tower: TextTower = Field(
        default="full",
        description="part of the text tower that trains; with none IAT is off: no MHE, no IAKD. "
        "known: the text tower is tuned; our reading: all of it",
    )
    w_tam: float = Field(
        default=1.0,
        ge=0,
        description="weight of L_TAM, the cross-entropy with margins. known: arXiv 2405.17678; 1 by convention",
    )
    kappa: float = Field(
        default=0.05, ge=0, description="size of the adaptive margin, cosine units (times s inside). our reading"
    )
    w_takd: float = Field(
        default=1.0,
        ge=0,
        description="weight of L_TAKD on the adversarial image. known: the term; our reading: its form, the weight",
    )
    w_takd_clean: float = Field(
        default=0.0, ge=0, description="weight of L_TAKD on the clean image (one more forward pass). our reading"
    )
    w_mhe: float = Field(
        default=1.0, ge=0, description="weight of L_MHE. known: the term (themoonlight.io's retelling); our reading: the weight"
    )
    alpha: float = Field(
        default=2.0, gt=0, description="exponent of the distance in L_MHE. known: 2 (themoonlight.io's retelling)"
    )
    mhe_classes: int = Field(
        default=4096,
        ge=1,
        description="above so many classes in a step, L_MHE pairs every class with so many drawn ones in place of all: "
        "unbiased, standard error measured in docs/scaling.md. our reading",
    )
    w_iakd: float = Field(
        default=1.0, ge=0, description="weight of L_IAKD. known: the term (abstract); our reading: its form, the weight"
    )
    kd_scale: float | None = Field(
        default=None,
        gt=0,
        description="replaces the logit scale s in TAKD and IAKD (1 / temperature); None: the model's own s. our reading",
    )
    w_feature: float = Field(
        default=0.0,
        ge=0,
        description="OURS, not the paper's, off by default: a stabiliser, squared l2 between the un-normalised embeddings of "
        "the student's adversarial and the teacher's clean image. known: FARE, arXiv 2402.12336",
    )

    @model_validator(mode="after")
    def _something_to_minimise(self) -> Self:
        image_side = (self.w_tam, self.w_takd, self.w_takd_clean, self.w_feature)
        text_side = () if self.text_tower == "none" else (self.w_mhe, self.w_iakd)
        if not any((*image_side, *text_side)):
            raise ValueError("every weight that is in use is 0, so there is nothing to minimise; set w_tam=1.")
        return self


class TimaV1(Method):
    """Image and text tower tuned together, each with the other in view; margins by the texts' distance (arXiv 2405.17678).

    L = w_tam L_TAM + w_takd L_TAKD + w_mhe L_MHE + w_iakd L_IAKD (known: minimised jointly; our reading: the weights).

    With all weights but w_tam and the margins at 0 this is TeCoA's loss, bit for bit, for as long as the texts are the
    frozen ones (text_tower none). Otherwise w_tam's cross-entropy trains the texts too: the formula stops no gradient there.
    """

    name: ClassVar[str] = "tima-v1"
    Config: ClassVar[type[MethodConfig]] = TimaV1Config
    config: TimaV1Config

    @property
    def text_tower(self) -> TextTower:
        return self.config.text_tower

    @property
    def needs_teacher(self) -> bool:
        c = self.config
        return max(c.w_takd, c.w_takd_clean, c.w_feature, c.w_iakd if c.text_tower != "none" else 0.0) > 0

    def losses(self, step: Step) -> dict[str, Tensor]:
        c = self.config
        found: dict[str, Tensor] = {}

        def add(name: str, weight: float, term: Callable[[], Tensor]) -> None:
            if weight > 0:
                found[name] = weight * term()

        scale = step.scale if c.kd_scale is None else c.kd_scale
        extra_C = step.log_weight_C
        # Text-aware image tuning (TAI)
        add("tam", c.w_tam, lambda: self._tam(step))
        add("takd", c.w_takd, lambda: terms.takd(step.teacher_BD, step.adv_BD, step.text_CD, scale, extra_C))
        add("takd_clean", c.w_takd_clean, lambda: terms.takd(step.teacher_BD, step.clean_BD, step.text_CD, scale, extra_C))
        # Image-aware text tuning (IAT): constant, so left out, when no text parameter trains
        if c.text_tower != "none":
            add("mhe", c.w_mhe, lambda: terms.mhe(step.text_CD, c.alpha, step.some_classes(c.mhe_classes)))
            add("sc", self.consistency_weight, lambda: terms.semantic_consistency(step.text_CD, step.text0_CD))
            add("iakd", c.w_iakd, lambda: terms.iakd(step.teacher_BD, step.text_CD, step.text0_CD, scale, extra_C))
        add("feature", c.w_feature, lambda: terms.feature_distance(step.adv_raw_BD, step.teacher_raw_BD))
        return found

    def _tam(self, step: Step) -> Tensor:
        arguments = step.adv_BD, step.text_CD, step.label_B, step.scale
        return terms.margin_ce(*arguments, self.margin(step), step.log_weight_C)

    def margin(self, step: Step) -> Tensor | None:
        """`margin_BC` by the distance of the tuned texts, or None.

        Our reading: no gradient flows through it. It is a demand on the images; through it the cross-entropy would draw
        confused classes' texts together to make the demand smaller.
        """
        kappa = self.config.kappa
        return terms.tam_margin(step.text_CD.detach(), kappa, step.label_B) if kappa > 0 else None

    @property
    def consistency_weight(self) -> float:
        """Weight of the semantic consistency, which this version does not have."""
        return 0.0
