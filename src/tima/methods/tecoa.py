"""TeCoA: text-guided contrastive adversarial training, the field's baseline.

Source: Mao et al., ICLR 2023, arXiv 2212.07016. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from typing import ClassVar

from torch import Tensor

from tima.methods.base import Method, MethodConfig, Step
from tima.methods.terms import margin_ce


class TeCoAConfig(MethodConfig):
    """TeCoA has no settings of its own."""


class TeCoA(Method):
    """Tunes the image tower on adversarial images against the frozen class texts (known: arXiv 2212.07016).

    The name stands for cross-entropy: with one text a class and one right text an image, the paper's image-to-text
    contrastive loss is that.
    """

    name: ClassVar[str] = "tecoa"
    Config: ClassVar[type[MethodConfig]] = TeCoAConfig

    def losses(self, step: Step) -> dict[str, Tensor]:
        # L = CE(s a @ t0.T, y), mean over the batch
        return {"ce": margin_ce(step.adv_BD, step.text0_CD, step.label_B, step.scale)}
