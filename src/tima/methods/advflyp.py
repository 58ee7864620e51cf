"""AdvFLYP: adversarial fine-tuning as CLIP was pre-trained, on images with captions, against the other captions of the batch.

Source: Xing et al. 2026, arXiv 2604.11576. Shapes: `B` images and captions of this process, `N` of all, `D` embedding width.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tima.attacks import LogitsFn
from tima.distributed import gather_rows, gather_texts, own_rows
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


def shared_rows(logits_BN: Tensor, target_BN: Tensor) -> Tensor:
    """The contrastive loss of this process's pairs; the columns of its captions run over the images of all processes."""
    return contrastive_rows(logits_BN, target_BN, gather_rows(logits_BN)[:, own_rows()])


class AdvFlyp(Method):
    """Symmetric contrastive loss on adversarial images, held back in features and in logits (known: the published code).

    Captions come from the data set, or from class names through the recipe's templates where it has none. The batch is the
    class list: a large one matters, and `accumulate` makes it smaller. Several processes see each other's pairs. The inner
    attack climbs the same contrastive loss.
    """

    name: ClassVar[str] = "advflyp"
    Config: ClassVar[type[MethodConfig]] = AdvFlypConfig
    config: AdvFlypConfig
    teacher_sees_clean = False
    attack_loss = staticmethod(shared_rows)

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
        """The captions `ND`, in the order of the batch."""
        return gather_rows(step.caption_BD)

    def attack_target(self, step: Step) -> Tensor:
        """`target_BN`: for each image, the right captions of the batch, in equal shares."""
        captions, device = gather_texts(step.captions or ()), step.label_B.device
        if self.config.same_caption == "negatives":
            return torch.eye(len(captions), device=device)[own_rows()]
        place = {text: i for i, text in enumerate(dict.fromkeys(captions))}
        number_N = torch.tensor([place[text] for text in captions], device=device)
        same_BN = (number_N[own_rows(), None] == number_N[None]).float()
        return same_BN / same_BN.sum(1, keepdim=True)

    def losses(self, step: Step) -> dict[str, Tensor]:
        c, scale = self.config, step.scale
        caption_ND = gather_rows(step.caption_BD)
        rows_B = shared_rows(scaled_logits(step.adv_BD, caption_ND, scale), self.attack_target(step))
        # (24) L = mean_b l_b + w_feature ( mean ||a - a0|| + mean ||a - v|| )
        #      + w_logit ( KL(P(a) || P(a0)) + KL(P(a) || P(v)) ), a0: the original's embedding of the adversarial image
        found = {"contrastive": rows_B.mean()}
        if c.w_feature > 0:
            distance = l2_mean(step.adv_BD, step.teacher_adv_BD) + l2_mean(step.adv_BD, step.clean_BD)
            found["feature"] = c.w_feature * distance
        if c.w_logit > 0:
            kl = kl_both(step.adv_BD, step.teacher_adv_BD, caption_ND, scale)
            found["logit"] = c.w_logit * (kl + kl_both(step.adv_BD, step.clean_BD, caption_ND, scale))
        return found
