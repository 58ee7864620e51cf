"""Fine-tuning on clean images: shows what adversarial training costs and buys.

Shapes: `B` images, `C` classes, `D` embedding width.
"""

from typing import ClassVar

from torch import Tensor

from tima.methods.base import Method, MethodConfig, Step
from tima.methods.terms import margin_ce


class FtCleanConfig(MethodConfig):
    """Clean fine-tuning has no settings of its own."""


class FtClean(Method):
    """Tunes the image tower on clean images against the frozen class texts; there is no inner attack."""

    name: ClassVar[str] = "ft-clean"
    Config: ClassVar[type[MethodConfig]] = FtCleanConfig
    adversarial: ClassVar[bool] = False

    def losses(self, step: Step) -> dict[str, Tensor]:
        # L = CE(s v @ t0.T, y), mean over the batch
        return {"ce": margin_ce(step.clean_BD, step.text0_CD, step.label_B, step.scale)}
