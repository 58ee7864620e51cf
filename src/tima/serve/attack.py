"""One model attacked on one picture, with its answer at every step on the way.

Shapes: `B` = 1 picture, `C` channels or classes, `H, W` pixels, `T` points of the trace: the start and every step.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.attacks import find_loss, pgd
from tima.evaluation.attack import store_8bit
from tima.serve.jobs import Token
from tima.serve.models import ServedModel

IN_TRACE = 6  # classes that a trace follows: more lines than that nobody can tell apart


@dataclass(frozen=True)
class Wanted:
    """What the attack is to do.

    Attributes:
        eps: in pixel units of [0, 1].
        label: class number to drive the answer away from; None: the model's own answer.
        target: class number to drive it to instead.
        random_start: begin in a random point of the ball, drawn by `seed`; else in the picture itself.
    """

    eps: float
    steps: int
    label: int | None = None
    target: int | None = None
    random_start: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of it. Shares are softmax shares in [0, 1]; pictures are uint8, and what is judged is the 8-bit picture.

    Attributes:
        label: the class it was driven away from; the target, if there was one.
        kept_step: the step whose picture was kept, the one of highest loss; 0 is the start.
        levels: largest change of a pixel, in 255ths.
        delta_CHW: the change, amplified so that eps fills the range; grey is no change.
    """

    label: int
    clean_C: Tensor
    adversarial_C: Tensor
    trace_TC: Tensor
    kept_step: int
    levels: int
    clean_CHW: Tensor
    adversarial_CHW: Tensor
    delta_CHW: Tensor

    @property
    def followed(self) -> list[int]:
        """Class numbers worth following over the steps: the label, both answers, then whatever rose highest."""
        first = [self.label, int(self.clean_C.argmax()), int(self.adversarial_C.argmax())]
        order = [*first, *self.trace_TC.amax(0).argsort(descending=True).tolist()]
        return list(dict.fromkeys(order))[:IN_TRACE]


class Recorder:
    """A `logits_fn` that keeps what it answered, and ends the attack when its token does."""

    def __init__(self, model: ServedModel, text_CD: Tensor, token: Token) -> None:
        self._model, self._text_CD, self._token = model, text_CD, token
        self.logits_TC: list[Tensor] = []

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        self._token.check()
        logits_BC = self._model.encoder.logits(self._model.encoder.encode_image(image_BCHW), self._text_CD)
        self.logits_TC.append(logits_BC.detach()[0])
        return logits_BC


def attack(model: ServedModel, text_CD: Tensor, image_CHW: Tensor, wanted: Wanted, token: Token) -> Outcome:
    """PGD (Madry et al. 2018, arXiv 1706.06083) under l_inf, the iterate of highest loss kept.

    Args:
        text_CD: class embeddings.
        image_CHW: uint8, on the model's grid.

    Raises:
        Abandoned: the token is no longer valid.
        ModelError: logits or gradients that are not finite.
    """
    image_BCHW = image_CHW[None].float() / 255
    model_fn = Recorder(model, text_CD, token)
    with torch.no_grad():
        clean_C = model_fn(image_BCHW)[0].softmax(-1)
    label = int(clean_C.argmax()) if wanted.label is None else wanted.label
    goal = label if wanted.target is None else wanted.target
    targeted = wanted.target is not None
    model_fn.logits_TC.clear()
    adv_BCHW = pgd(
        model_fn,
        image_BCHW,
        torch.tensor([goal]),
        wanted.eps,
        steps=wanted.steps,
        targeted=targeted,
        random_start=wanted.random_start,
        generator=torch.Generator().manual_seed(wanted.seed),
    )
    logits_TC = torch.stack(model_fn.logits_TC)
    loss_T = find_loss("ce", targeted=targeted)(logits_TC, torch.full((len(logits_TC),), goal))
    stored_BCHW = store_8bit(adv_BCHW, image_BCHW, wanted.eps, "l_inf")
    with torch.no_grad():
        adversarial_C = model_fn(stored_BCHW)[0].softmax(-1)
    delta_BCHW = stored_BCHW - image_BCHW
    return Outcome(
        goal,
        clean_C,
        adversarial_C,
        F.softmax(logits_TC, -1),
        int(loss_T.argmax()),
        round(float(delta_BCHW.abs().max()) * 255),
        image_CHW,
        _bytes(stored_BCHW[0]),
        _bytes(delta_BCHW[0] / (2 * wanted.eps) + 0.5),
    )


def _bytes(image_CHW: Tensor) -> Tensor:
    return (image_CHW.clamp(0, 1) * 255).round().to(torch.uint8)
