"""LAAT: class texts spread over the half sphere are the anchors that adversarial images are tied to.

Source: Li et al., arXiv 2301.13096. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tima.attacks import LogitsFn
from tima.methods.base import Method, MethodConfig, Step
from tima.methods.baseline_terms import cosine_mean, expand_texts
from tima.methods.terms import margin_ce
from tima.models import DualEncoder


class LaatConfig(MethodConfig):
    """Settings of LAAT."""

    beta: float = Field(
        1.0,
        ge=0,
        description="weight of the cosine of clean and adversarial. known: the term; our reading: its weight",
    )
    expand: bool = Field(True, description="spread the anchors; False takes the class texts as they are. known: spread")


class Laat(Method):
    """Cross-entropy against expanded anchors, and a pull between clean and adversarial embedding (known: arXiv 2301.13096).

    At test time the classes are anchors no more: this trainer evaluates every method with its text tower's own embeddings.
    The paper expands the test classes' texts as well, so its figures and these are not made the same way.
    """

    name: ClassVar[str] = "laat"
    Config: ClassVar[type[MethodConfig]] = LaatConfig
    config: LaatConfig

    def anchors(self, text0_CD: Tensor) -> Tensor:
        """`anchor_CD`, unit-norm."""
        return expand_texts(text0_CD) if self.config.expand else text0_CD

    def attack_output(self, student: DualEncoder, text_CD: Tensor) -> LogitsFn:
        """Logits against the anchors; the texts are the frozen ones in this method."""
        anchor_CD = self.anchors(text_CD.detach())
        return lambda image_BCHW: student.logits(student.encode_image(image_BCHW), anchor_CD)

    def losses(self, step: Step) -> dict[str, Tensor]:
        # L = CE(s cos(a, anchor), y) - beta cos(v, a), means over the batch
        found = {"ce": margin_ce(step.adv_BD, self.anchors(step.text0_CD), step.label_B, step.scale)}
        if self.config.beta > 0:
            found["smooth"] = -self.config.beta * cosine_mean(step.clean_BD, step.adv_BD)
        return found
