"""One optimiser step's work as one module: class texts, inner attack, loss terms.

It is a module so that a distributed wrapper sees a single `forward`; inside, the attack runs on the bare student.
Shapes: `B` images, `C` classes, `D` embedding width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tima.attacks import pgd
from tima.config import AttackSettings
from tima.methods.base import Method, Step
from tima.models import DualEncoder, encode_classes


@dataclass
class Outcome:
    """Loss terms (weighted, summed they are the loss) and how the attack went."""

    terms: dict[str, Tensor]
    right: int  # images classified right by the student before this step's update, attacked if the method attacks
    n: int
    adversarial: bool


class Objective(nn.Module):
    """Student, frozen teacher and method, bound to a class list.

    Args:
        student: the model being tuned.
        teacher: the frozen original, or None when the method needs none.
        text0_CD: class texts of the frozen original.
    """

    text0_CD: Tensor

    def __init__(
        self,
        student: DualEncoder,
        teacher: DualEncoder | None,
        method: Method,
        class_names: Sequence[str],
        templates: Sequence[str],
        attack: AttackSettings,
    ) -> None:
        super().__init__()
        self.student, self.method, self.attack = student, method, attack
        self.class_names, self.templates = list(class_names), list(templates)
        self._teacher = [teacher]  # in a list: its weights are not this module's parameters
        with torch.no_grad():
            text0_CD = encode_classes(student if teacher is None else teacher, self.class_names, self.templates)
        self.register_buffer("text0_CD", text0_CD, persistent=False)
        self.own = nn.ParameterDict(method.prepare(text0_CD, student.logit_scale.detach()))

    @property
    def teacher(self) -> DualEncoder | None:
        return self._teacher[0]

    def forward(self, image_BCHW: Tensor, label_B: Tensor, eps: float, step_size: float, generator: torch.Generator) -> Outcome:
        """Pixels in [0, 1] and labels to loss terms."""
        method, student = self.method, self.student
        if method.text_tower == "none":
            text_CD = self.text0_CD
        else:
            text_CD = encode_classes(student, self.class_names, self.templates)  # once a step, with gradient
        step = Step(
            student=student,
            teacher=self.teacher,
            image_BCHW=image_BCHW,
            adv_BCHW=image_BCHW,
            label_B=label_B,
            text_CD=text_CD,
            text0_CD=self.text0_CD,
        )
        if method.adversarial:
            target_B = method.attack_target(step)
            with frozen(student):
                step.adv_BCHW = pgd(
                    method.attack_output(student, text_CD.detach()),
                    image_BCHW,
                    target_B,
                    eps,
                    steps=self.attack.steps,
                    step_size=step_size,
                    restarts=self.attack.restarts,
                    loss=method.attack_loss,
                    keep_best=self.attack.keep_best,
                    generator=generator,
                )
        terms = method.losses(step)
        with torch.no_grad():
            hit_B = (step.adv_BD.detach() @ text_CD.detach().T).argmax(-1) == label_B
        return Outcome(terms, int(hit_B.sum()), len(label_B), method.adversarial)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Switch `requires_grad` of the weights off: the attack then pays for the gradient of the pixels alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)
