"""TGA-ZSR: where the class text finds its object in an attacked image stays where the original found it in the clean one.

Source: Yu et al., NeurIPS 2024, arXiv 2410.21802. Shapes: `B` images, `C` classes, `D` embedding width, `P` pixels of an image.
"""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tima.methods.base import Method, MethodConfig, Step
from tima.methods.baseline_terms import attention_map, l2_mean
from tima.methods.terms import margin_ce


class TgaZsrConfig(MethodConfig):
    """Settings of TGA-ZSR."""

    w_refine: float = Field(
        0.08, ge=0, description="alpha, weight of the attention refinement. known: 0.08 (published code), for maps of 224 px"
    )
    w_constrain: float = Field(
        0.05, ge=0, description="beta, weight of the attention-based model constraint. known: 0.05 (published code)"
    )
    normalize: Literal["channels", "tokens"] = Field(
        "channels",
        description="what patch embeddings are normalised over. channels: so that scores are cosines, our reading; tokens: "
        "as the published code does, each channel over all tokens of an image",
    )


class TgaZsr(Method):
    """Cross-entropy, and two distances between maps of text-guided attention (known: arXiv 2410.21802 and its code).

    The map compares each patch with the text of the image's true class. Both distances are to the original's map of the clean
    image: of the adversarial image (attention refinement), and of the clean one (attention-based model constraint). Maps have
    the size of the image, so at another resolution than 224 px the distances are as much larger or smaller as its side.
    """

    name: ClassVar[str] = "tga-zsr"
    Config: ClassVar[type[MethodConfig]] = TgaZsrConfig
    config: TgaZsrConfig
    teacher_sees_clean = False

    @property
    def needs_teacher(self) -> bool:
        return max(self.config.w_refine, self.config.w_constrain) > 0

    def attention(self, step: Step, tokens: tuple[Tensor, Tensor]) -> Tensor:
        """`attention_BP` of images whose embeddings and patches are given, against their true classes' texts."""
        size = step.image_BCHW.shape[-1]
        return attention_map(*tokens, step.text0_CD[step.label_B], size, self.config.normalize)

    def losses(self, step: Step) -> dict[str, Tensor]:
        c = self.config
        # (21) L = CE(s a @ t0.T, y) + alpha mean_b ||A(x_adv) - A0(x)||_2 + beta mean_b ||A(x) - A0(x)||_2
        distances: dict[str, Tensor] = {}
        if self.needs_teacher:
            fixed_BP = self.attention(step, step.teacher_tokens)
            if c.w_refine > 0:
                distances["refine"] = c.w_refine * l2_mean(self.attention(step, step.adv_tokens), fixed_BP)
            if c.w_constrain > 0:
                distances["constrain"] = c.w_constrain * l2_mean(self.attention(step, step.clean_tokens), fixed_BP)
        return {"ce": margin_ce(step.adv_BD, step.text0_CD, step.label_B, step.scale)} | distances
