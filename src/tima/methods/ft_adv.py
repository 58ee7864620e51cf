"""Adversarial fine-tuning as for an ordinary classifier: a fresh linear head, which the zero-shot head replaces afterwards.

Source: Madry et al., ICLR 2018, arXiv 1706.06083. Shapes: `B` images, `C` classes, `D` embedding width.
"""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tima.attacks import LogitsFn
from tima.methods.base import Method, MethodConfig, Step
from tima.methods.baseline_terms import scaled_logits
from tima.methods.terms import margin_ce
from tima.models import DualEncoder


class FtAdvConfig(MethodConfig):
    """Settings of adversarial fine-tuning."""

    head: bool = Field(
        True,
        description="a linear head in place of the class texts; False: TeCoA's loss. known: a head (arXiv 1706.06083)",
    )


class FtAdv(Method):
    """Tunes the image tower with a linear classifier on top, on adversarial images (known: arXiv 1706.06083).

    The head starts at the class texts times the logit scale, so that the first step sees the zero-shot classifier (our
    reading: a head at random would spend the whole budget on being learned). It trains with the tower, is in the checkpoints,
    and is no part of the model that comes out.
    """

    name: ClassVar[str] = "ft-adv"
    Config: ClassVar[type[MethodConfig]] = FtAdvConfig
    config: FtAdvConfig
    head_CD: nn.Parameter | None = None

    def prepare(self, text0_CD: Tensor, scale: Tensor) -> dict[str, nn.Parameter]:
        if not self.config.head:
            return {}
        self.head_CD = nn.Parameter((scale.detach() * text0_CD.detach()).float().clone())
        return {"head": self.head_CD}

    def attack_output(self, student: DualEncoder, text_CD: Tensor) -> LogitsFn:
        if self.head_CD is None:
            return super().attack_output(student, text_CD)
        head_CD = self.head_CD.detach()
        return lambda image_BCHW: scaled_logits(student.encode_image(image_BCHW), head_CD)

    def losses(self, step: Step) -> dict[str, Tensor]:
        if self.head_CD is None:
            # L = CE(s a @ t0.T, y), mean over the batch
            return {"ce": margin_ce(step.adv_BD, step.text0_CD, step.label_B, step.scale)}
        # L = CE(a @ W.T, y), mean over the batch
        return {"ce": F.cross_entropy(scaled_logits(step.adv_BD, self.head_CD), step.label_B)}
