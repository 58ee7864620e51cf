"""AdvFLYP: adversarial fine-tuning as CLIP was pre-trained, on images with captions, against the other captions of the batch.

Source: Xing et al. 2026, arXiv 2604.11576. Shapes: `B` images and captions, `D` embedding width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tima.attacks import LogitsFn
from tima.methods.base import Method, MethodConfig, Step
from tima.methods.baseline_terms import contrastive_rows, kl_both, l2_mean, scaled_logits
from tima.models import DualEncoder


class AdvFlypConfig(MethodConfig):
    """Settings of AdvFLYP."""

    w_logit: float = Field(1.0, ge=0, description="lambda of the logit regularisation. known: 1 (published code)")
    w_feature: float = Field(1.0, ge=0, description="lambda of the feature regularisation. known: 1 (published code)")
    same_caption: Literal["positives", "negatives"] = Field(
        "positives",
        description="images of the batch with the very same caption. positives: all of them are right; our reading, so that "
        "captions made from class names push no class apart. negatives: the published code. Without such images both are one",
    )


class AdvFlyp(Method):
    """Symmetric contrastive loss on adversarial images, held back in features and in logits (known: the published code).

    Captions come from the data set, or from class names through the recipe's templates where it has none. The batch is the
    class list: a large one matters, and `accumulate` makes it smaller. The inner attack climbs the same contrastive loss.
    """

    name: ClassVar[str] = "advflyp"
    Config: ClassVar[type[MethodConfig]] = AdvFlypConfig
    config: AdvFlypConfig
    attack_loss = staticmethod(contrastive_rows)

    @property
    def needs_teacher(self) -> bool:
        return max(self.config.w_logit, self.config.w_feature) > 0

    @property
    def needs_captions(self) -> bool:
        return True

    def attack_output(self, student: DualEncoder, text_CD: Tensor) -> LogitsFn:
        """Logits against the batch's captions, which the step hands in as `text_CD`."""
        fixed_BD, scale = text_CD.detach(), student.logit_scale.detach()
        return lambda image_BCHW: scaled_logits(student.encode_image(image_BCHW), fixed_BD, scale)

    def attack_texts(self, step: Step) -> Tensor:
        """The captions, in the order of the batch."""
        return step.caption_BD

    def attack_target(self, step: Step) -> Tensor:
        """`target_BB`: for each image, the right captions of the batch, in equal shares."""
        captions = step.captions or ()
        if self.config.same_caption == "negatives":
            return torch.eye(len(captions), device=step.label_B.device)
        place = {text: i for i, text in enumerate(dict.fromkeys(captions))}
        number_B = torch.tensor([place[text] for text in captions], device=step.label_B.device)
        same_BB = (number_B[:, None] == number_B[None]).float()
        return same_BB / same_BB.sum(1, keepdim=True)

    def losses(self, step: Step) -> dict[str, Tensor]:
        c, caption_BD, scale = self.config, step.caption_BD, step.scale
        rows_B = contrastive_rows(scaled_logits(step.adv_BD, caption_BD, scale), self.attack_target(step))
        # (24) L = mean_b l_b + w_feature ( mean ||a - a0|| + mean ||a - v|| )
        #      + w_logit ( KL(P(a) || P(a0)) + KL(P(a) || P(v)) ), a0: the original's embedding of the adversarial image
        found = {"contrastive": rows_B.mean()}
        if c.w_feature > 0:
            distance = l2_mean(step.adv_BD, step.teacher_adv_BD) + l2_mean(step.adv_BD, step.clean_BD)
            found["feature"] = c.w_feature * distance
        if c.w_logit > 0:
            kl = kl_both(step.adv_BD, step.teacher_adv_BD, caption_BD, scale)
            found["logit"] = c.w_logit * (kl + kl_both(step.adv_BD, step.clean_BD, caption_BD, scale))
        return found
