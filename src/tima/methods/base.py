"""`Step` (what an optimiser step offers to a method) and `Method` (what a method has to say).

Shapes: `B` images, `C` classes, `D` embedding width, `N` patches of an image, `H, W` pixels.

A method says what trains, what the adversary maximises and what the optimiser minimises. The trainer owns everything
else: batches, the inner attack, autocast, weights, checkpoints.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from tima.attacks import LogitsFn, LossFn
from tima.errors import RecipeError, TrainingError
from tima.models import DualEncoder

NO_TEACHER = "This step has no teacher. A method whose losses use one must say needs_teacher = True."
TextTower = Literal["full", "projection", "none"]


class MethodConfig(BaseModel):
    """Base of the methods' settings: unknown names, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


@dataclass(eq=False)
class Step:
    """One optimiser step's inputs. Embeddings are computed when first asked for, and once: a method pays for what it uses.

    Args:
        student: the model being tuned.
        teacher: its frozen original, or None when the method needs none.
        image_BCHW: clean pixels in [0, 1].
        adv_BCHW: adversarial pixels in [0, 1]; the same tensor object as `image_BCHW` when there was no attack.
        label_B: class indices, rows of `text_CD`.
        text_CD: unit-norm class texts of the student, with a gradient if the text tower trains.
        text0_CD: unit-norm class texts of the frozen original, a constant.
        captions: a text for each image, when the method asks for them (`needs_captions`).
        extra_CD: class texts of the frozen original through the method's `extra_templates`, by their name.
        log_weight_C: where the classes are a sample, what is added to their logits (`tima.class_sample`); None adds nothing.
        seed: for what a method draws in this step; the same in every process.
    """

    student: DualEncoder
    teacher: DualEncoder | None
    image_BCHW: Tensor
    adv_BCHW: Tensor
    label_B: Tensor
    text_CD: Tensor
    text0_CD: Tensor
    captions: Sequence[str] | None = None
    extra_CD: Mapping[str, Tensor] = field(default_factory=dict)
    log_weight_C: Tensor | None = None
    seed: int = 0

    def some_classes(self, count: int) -> Tensor | None:
        """`count` of the step's classes, drawn evenly; None where there are no more than that."""
        n_classes = len(self.text_CD)
        if n_classes <= count:
            return None
        drawn = torch.randperm(n_classes, generator=torch.Generator().manual_seed(self.seed + 1))[:count]
        return drawn.to(self.text_CD.device)

    @cached_property
    def scale(self) -> Tensor:
        """`s`, the student's logit scale: a detached fp32 scalar, because it is frozen in every method."""
        return self.student.logit_scale.detach().float()

    @cached_property
    def adv_raw_BD(self) -> Tensor:
        """Un-normalised embeddings of the adversarial images, student."""
        if "adv_tokens" in self.__dict__:  # computed with the patches already
            return self.adv_tokens[0]
        return self.student.encode_image(self.adv_BCHW, normalize=False)

    @cached_property
    def adv_BD(self) -> Tensor:
        """Unit-norm embeddings of the adversarial images, student."""
        return F.normalize(self.adv_raw_BD, dim=-1)

    @cached_property
    def clean_raw_BD(self) -> Tensor:
        """Un-normalised embeddings of the clean images, student."""
        if self.image_BCHW is self.adv_BCHW:  # no attack: one forward pass serves both names
            return self.adv_raw_BD
        if "clean_tokens" in self.__dict__:
            return self.clean_tokens[0]
        return self.student.encode_image(self.image_BCHW, normalize=False)

    @cached_property
    def clean_BD(self) -> Tensor:
        """Unit-norm embeddings of the clean images, student."""
        return F.normalize(self.clean_raw_BD, dim=-1)

    @cached_property
    def teacher_raw_BD(self) -> Tensor:
        """Un-normalised embeddings of the clean images, frozen teacher, without autograd.

        Raises:
            TrainingError: the step was built without a teacher.
        """
        if self.teacher is None:
            raise TrainingError(NO_TEACHER)
        with torch.no_grad():
            return self.teacher.encode_image(self.image_BCHW, normalize=False)

    @cached_property
    def teacher_BD(self) -> Tensor:
        """Unit-norm embeddings of the clean images, frozen teacher, without autograd."""
        return F.normalize(self.teacher_raw_BD, dim=-1)

    @cached_property
    def teacher_adv_BD(self) -> Tensor:
        """Unit-norm embeddings of the adversarial images, frozen teacher, without autograd."""
        if self.teacher is None:
            raise TrainingError(NO_TEACHER)
        encode = getattr(self.teacher, "encode_anew", self.teacher.encode_image)  # past a cache: these pixels never come again
        with torch.no_grad():
            found_BD: Tensor = encode(self.adv_BCHW)
        return found_BD

    @cached_property
    def adv_tokens(self) -> tuple[Tensor, Tensor]:
        """Un-normalised embeddings `BxD` of the adversarial images and `BxNxD` of their patches, student. Ask for them before
        `adv_BD`: both then come from one pass."""
        return self.student.encode_patches(self.adv_BCHW)

    @cached_property
    def clean_tokens(self) -> tuple[Tensor, Tensor]:
        """The same of the clean images, student."""
        return self.student.encode_patches(self.image_BCHW)

    @cached_property
    def teacher_tokens(self) -> tuple[Tensor, Tensor]:
        """The same of the clean images, frozen teacher, without autograd."""
        if self.teacher is None:
            raise TrainingError(NO_TEACHER)
        with torch.no_grad():
            return self.teacher.encode_patches(self.image_BCHW)

    @cached_property
    def caption_BD(self) -> Tensor:
        """Unit-norm embeddings of the captions, without autograd: the text tower of methods that use them is frozen."""
        if self.captions is None:
            raise TrainingError("This step has no captions. A method that uses them must say needs_captions = True.")
        place = {text: i for i, text in enumerate(dict.fromkeys(self.captions))}  # each different text is encoded once
        with torch.no_grad():
            text_UD = self.student.encode_text(list(place))
        return text_UD[[place[text] for text in self.captions]]


class Method(ABC):
    """A training objective. A new one is a file with a subclass, and a line in `methods/__init__.py`.

    Attributes:
        name: as users write it.
        Config: its settings; every field says where it comes from.
        adversarial: False means no inner attack; the step's adversarial images are then the clean ones.
        teacher_sees_clean: whether the teacher embeds clean images, which come again (`cache_teacher`); else it sees attacked
            ones, or gives patches.
        attack_loss: what the inner attack maximises on `attack_output`: a name of `tima.attacks.LOSSES` or a function.

    Raises:
        RecipeError: settings of another method.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]
    adversarial: ClassVar[bool] = True
    teacher_sees_clean: ClassVar[bool] = True
    attack_loss: str | LossFn = "ce"
    config: MethodConfig

    def __init__(self, config: MethodConfig | None = None) -> None:
        config = self.Config() if config is None else config
        if not isinstance(config, self.Config):
            raise RecipeError(f"'{self.name}' takes a {self.Config.__name__}, not a {type(config).__name__}.")
        self.config = config

    @property
    def needs_teacher(self) -> bool:
        """Whether `losses` uses the frozen original's image embeddings; when not, it is neither loaded nor run."""
        return False

    @property
    def needs_captions(self) -> bool:
        """Whether the step is to carry a text for each image."""
        return False

    @property
    def extra_templates(self) -> Mapping[str, Sequence[str]]:
        """More prompts for the classes, by a name of the method's own; the frozen original encodes them once."""
        return {}

    @property
    def text_tower(self) -> TextTower:
        """Which part of the text tower trains."""
        return "none"

    def trainable(self, student: DualEncoder) -> dict[str, nn.Parameter]:
        """The parameters that train, by name: the image tower, and what `text_tower` says."""
        return student.image_parameters() | student.text_parameters(self.text_tower)

    def prepare(self, text0_CD: Tensor, scale: Tensor) -> dict[str, nn.Parameter]:
        """Parameters of the method's own that train too, by name, once the class texts `text0_CD` and `s` are known."""
        return {}

    def attack_texts(self, step: Step) -> Tensor:
        """The texts that `attack_output` is given: the class texts, unless the method attacks against others."""
        return step.text_CD

    def attack_output(self, student: DualEncoder, text_CD: Tensor) -> LogitsFn:
        """What the inner attack sees: pixels `BCHW` in [0, 1] to logits `BC` against fixed class texts."""
        fixed_CD = text_CD.detach()
        return lambda image_BCHW: student.logits(student.encode_image(image_BCHW), fixed_CD)

    def attack_target(self, step: Step) -> Tensor:
        """What the inner attack is driven away from, one row an image: the labels, or what `attack_loss` takes instead
        (a teacher's embedding, a soft label). Called before the attack: the step's adversarial images are not there yet.
        """
        return step.label_B

    @abstractmethod
    def losses(self, step: Step) -> dict[str, Tensor]:
        """Named scalar terms, already weighted, for the trainer to sum. A term of weight 0 is neither computed nor listed."""
