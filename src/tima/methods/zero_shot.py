"""The original model: nothing trains. It gives the comparison its first row, through the same files as every other method.

Source: Radford et al., ICML 2021, arXiv 2103.00020.
"""

from typing import ClassVar

from torch import Tensor, nn

from tima.methods.base import Method, MethodConfig, Step
from tima.models import DualEncoder


class ZeroShotConfig(MethodConfig):
    """There is nothing to set."""


class ZeroShot(Method):
    """No parameter trains and no step is taken: `tima train` writes the model as it is and validates it once."""

    name: ClassVar[str] = "zero-shot"
    Config: ClassVar[type[MethodConfig]] = ZeroShotConfig
    adversarial: ClassVar[bool] = False

    def trainable(self, student: DualEncoder) -> dict[str, nn.Parameter]:
        return {}

    def losses(self, step: Step) -> dict[str, Tensor]:
        return {}
