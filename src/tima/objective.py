"""One optimiser step's work as one module: class texts, inner attack, loss terms.

It is a module so that a distributed wrapper sees a single `forward`; inside, the attack runs on the bare student.
Shapes: `B` images, `C` classes, `M` classes of a step, `D` embedding width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tima.attacks import LogitsFn
from tima.attacks.projections import Generators
from tima.class_sample import ClassSample
from tima.config import AttackSettings
from tima.errors import RecipeError
from tima.methods.base import Method, Step
from tima.models import DualEncoder, encode_classes
from tima.modifiers.grad_align import grad_align
from tima.modifiers.inner_attack import inner_attack

PROMPTS = 2048  # that keep their activations for the backward pass: about 4 MB each in CLIP's text tower


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

    @property
    def samples_classes(self) -> bool:
        """Whether a sample of the classes saves anything: only a text tower that trains is run in every step."""
        return self.method.text_tower != "none"

    def _class_texts(self, chosen: Sequence[int]) -> Tensor:
        """Class texts of the student, with gradient. A long list is run again in the backward pass, piece by piece."""
        names, count = [self.class_names[i] for i in chosen], max(1, PROMPTS // len(self.templates))
        if len(names) <= count or not torch.is_grad_enabled():
            return encode_classes(self.student, names, self.templates)
        pieces = [names[i : i + count] for i in range(0, len(names), count)]
        return torch.cat([checkpoint(encode_classes, self.student, p, self.templates, use_reentrant=False) for p in pieces])

    def _attack_output(self, step: Step) -> LogitsFn:
        """What the attack climbs; a weighted sample of the classes has its weights there, too."""
        texts, log_weight_M = self.method.attack_texts(step), step.log_weight_C
        logits_fn = self.method.attack_output(step.student, texts.detach())
        if log_weight_M is None or texts is not step.text_CD or self.method.attack_loss != "ce":
            return logits_fn
        return lambda image_BCHW: logits_fn(image_BCHW) + log_weight_M

    def forward(
        self,
        image_BCHW: Tensor,
        label_B: Tensor,
        eps: float,
        step_size: float,
        generator: Generators,
        captions: Sequence[str] | None = None,
        adv_BCHW: Tensor | None = None,
        classes: ClassSample | None = None,
    ) -> Outcome:
        """Pixels in [0, 1] and labels to loss terms. `adv_BCHW` takes the place of an attack, where one was made before.

        `classes` is the step's sample of the class list. Frozen texts are encoded once for a run, so a method that trains no
        text tower sees all of them whatever the sample says. The attack climbs against the classes that the loss sees.
        """
        method, student = self.method, self.student
        classes = classes or ClassSample()
        if not self.samples_classes:
            classes = ClassSample(classes.seed)
        device, chosen_M, log_weight_M = label_B.device, classes.class_M, classes.log_weight_M
        if method.text_tower == "none":
            text_MD = self.text0_CD
        else:  # once a step, with gradient
            text_MD = self._class_texts(range(len(self.class_names)) if chosen_M is None else chosen_M.tolist())
        rows = slice(None) if chosen_M is None else chosen_M.to(device)
        label_B = classes.renumber(label_B)
        step = Step(
            student=student,
            teacher=self.teacher,
            image_BCHW=image_BCHW,
            adv_BCHW=image_BCHW,
            label_B=label_B,
            text_CD=text_MD,
            text0_CD=self.text0_CD[rows],
            captions=captions,
            extra_CD={name: getattr(self, f"extra_{name}_CD")[rows] for name in self._extra},
            log_weight_C=None if log_weight_M is None else log_weight_M.to(device),
            seed=classes.seed,
        )
        align: dict[str, Tensor] = {}
        if method.adversarial:
            target_B = method.attack_target(step)
            logits_fn = self._attack_output(step)
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
            hit_B = (step.adv_BD.detach() @ text_MD.detach().T).argmax(-1) == label_B
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
