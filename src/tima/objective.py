"""One optimiser step's work as one module: class texts, inner attack, loss terms.

It is a module so that a distributed wrapper sees a single `forward`; inside, the attack runs on the bare student.
Shapes: `B` images, `C` classes, `D` embedding width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tima.config import AttackSettings
from tima.errors import RecipeError
from tima.methods.base import Method, Step
from tima.models import DualEncoder, encode_classes
from tima.modifiers.grad_align import grad_align
from tima.modifiers.inner_attack import inner_attack


@dataclass
class Outcome:
    """Loss terms (weighted, summed they are the loss) and how the attack went."""

    terms: dict[str, Tensor]
    right: int  # images classified right by the student before this step's update, attacked if the method attacks
    n: int
    adversarial: bool
    adv_BCHW: Tensor | None = None  # the images it was computed on, for a second look at the same ones


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
            extra = {
                name: encode_classes(student if teacher is None else teacher, self.class_names, prompts)
                for name, prompts in method.extra_templates.items()
            }
        self.register_buffer("text0_CD", text0_CD, persistent=False)
        self._extra = list(extra)
        for name, extra_CD in extra.items():
            self.register_buffer(f"extra_{name}_CD", extra_CD, persistent=False)
        if attack.align > 0 and not method.adversarial:
            raise RecipeError(f"attack.align regularises the inner attack, and '{method.name}' has none. Leave it at 0.")
        if attack.align > 0 and method.attack_loss == "kl":
            raise RecipeError(
                f"attack.align compares gradients at the clean image with others, and what '{method.name}' attacks, the "
                "distance to the student's own clean prediction, has none there. Leave it at 0."
            )
        self.own = nn.ParameterDict(method.prepare(text0_CD, student.logit_scale.detach()))

    @property
    def teacher(self) -> DualEncoder | None:
        return self._teacher[0]

    def forward(
        self,
        image_BCHW: Tensor,
        label_B: Tensor,
        eps: float,
        step_size: float,
        generator: torch.Generator,
        captions: Sequence[str] | None = None,
        adv_BCHW: Tensor | None = None,
    ) -> Outcome:
        """Pixels in [0, 1] and labels to loss terms. `adv_BCHW` takes the place of an attack, where one was made before."""
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
            captions=captions,
            extra_CD={name: getattr(self, f"extra_{name}_CD") for name in self._extra},
        )
        align: dict[str, Tensor] = {}
        if method.adversarial:
            target_B = method.attack_target(step)
            logits_fn = method.attack_output(student, method.attack_texts(step).detach())
            if adv_BCHW is None:
                with frozen(student):
                    adv_BCHW = inner_attack(
                        self.attack, logits_fn, image_BCHW, target_B, eps, step_size, method.attack_loss, generator
                    )
            step.adv_BCHW = adv_BCHW
            if self.attack.align > 0:
                term = grad_align(logits_fn, image_BCHW, target_B, eps, loss=method.attack_loss, generator=generator)
                align["align"] = self.attack.align * term
        terms = method.losses(step) | align
        with torch.no_grad():
            hit_B = (step.adv_BD.detach() @ text_CD.detach().T).argmax(-1) == label_B
        return Outcome(terms, int(hit_B.sum()), len(label_B), method.adversarial, step.adv_BCHW)


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
