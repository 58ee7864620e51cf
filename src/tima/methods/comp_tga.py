"""Comp-TGA: TGA-ZSR with a second look at the foreground, as what a text that denies the class leaves over.

Source: Yu et al., arXiv 2603.18598 (TPAMI 2026). Shapes: `B` images, `C` classes, `D` embedding width, `P` pixels of an image.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tima.methods.base import MethodConfig, Step
from tima.methods.baseline_terms import attention_map
from tima.methods.tga_zsr import TgaZsr, TgaZsrConfig


class CompTgaConfig(TgaZsrConfig):
    """Settings of Comp-TGA."""

    w_refine: float = Field(0.10, ge=0, description="alpha. known: 0.10 (published code), for maps of 224 px")
    w_constrain: float = Field(0.07, ge=0, description="beta. known: 0.07 (published code)")
    negative: str = Field(
        "This is not a photo of a {c}", description="prompt that denies the class. known: this one (published code)"
    )


class CompTga(TgaZsr):
    """TGA-ZSR's losses on the product of the class text's map and the reversed map of its denial (known: the published code).

    The abstract says that the two kinds of attention are integrated; that this is a product is known from the code alone.
    """

    name: ClassVar[str] = "comp-tga"
    Config: ClassVar[type[MethodConfig]] = CompTgaConfig
    config: CompTgaConfig

    @property
    def extra_templates(self) -> Mapping[str, Sequence[str]]:
        return {"negative": [self.config.negative]}

    def attention(self, step: Step, tokens: tuple[Tensor, Tensor]) -> Tensor:
        # (22) A = A_class (1 - A_not), at every place of the enlarged maps
        denial_BD, size = step.extra_CD["negative"][step.label_B], step.image_BCHW.shape[-1]
        return super().attention(step, tokens) * (1 - attention_map(*tokens, denial_BD, size, self.config.normalize))
