"""FARE: unsupervised adversarial fine-tuning of the image tower.

Source: Schlarmann et al., ICML 2024, arXiv 2402.12336, eq. 3. Shapes: `B` images, `D` embedding width, `H, W` pixels.
"""

from typing import ClassVar

from torch import Tensor

from tima.attacks import LogitsFn
from tima.methods.base import Method, MethodConfig, Step
from tima.methods.terms import feature_distance
from tima.models import DualEncoder


class FareConfig(MethodConfig):
    """FARE has no settings of its own."""


class Fare(Method):
    """Keeps the embedding of every attacked image where the original model has the clean one (known: arXiv 2402.12336).

    No label and no class text takes part, neither in the loss nor in the inner attack.
    """

    name: ClassVar[str] = "fare"
    Config: ClassVar[type[MethodConfig]] = FareConfig
    attack_loss = "embedding_l2"

    @property
    def needs_teacher(self) -> bool:
        return True

    def attack_output(self, student: DualEncoder, text_CD: Tensor) -> LogitsFn:
        """Un-normalised embeddings `BxD` instead of logits."""
        return lambda image_BCHW: student.encode_image(image_BCHW, normalize=False)

    def attack_target(self, step: Step) -> Tensor:
        """The original's embeddings of the clean images, which the attack is driven away from."""
        return step.teacher_raw_BD

    def losses(self, step: Step) -> dict[str, Tensor]:
        # L = max_{||z - x|| <= eps} || f(z) - f0(x) ||_2^2, summed over D, mean over the batch; f, f0 un-normalised
        return {"feature": feature_distance(step.adv_raw_BD, step.teacher_raw_BD)}
