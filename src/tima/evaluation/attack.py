"""One block of images through every attack of a protocol, at one eps.

Shapes: `B` images of the block, `A` of them that still stand, `C` channels or classes, `H, W` pixels.
"""

import hashlib
import inspect
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tima.attacks import CountedModel, Stage
from tima.attacks.projections import make_ball
from tima.evaluation.clean import answers
from tima.evaluation.inside import Inside
from tima.evaluation.limits import BLOCK_BATCHES
from tima.evaluation.parts import Block, Costs

if TYPE_CHECKING:
    from tima.evaluation.judge import Judge


@dataclass
class Target:
    """The clean images of a block with what belongs to them."""

    image_BCHW: Tensor
    start_BCHW: Tensor | None
    label_B: Tensor
    index_B: Tensor


def open_block(judge: "Judge", position_B: Tensor, target: Target, eps: float, arrays: dict[str, Tensor], step: int) -> Block:
    """A block that nothing has attacked at this eps: the images stand where the smaller eps left them."""
    adv_BCHW = target.image_BCHW.clone()
    if target.start_BCHW is not None:
        eps_B = torch.full((len(position_B),), eps, device=adv_BCHW.device)
        adv_BCHW = make_ball(judge.protocol.norm, target.image_BCHW, eps_B).project_(target.start_BCHW.clone())
    return Block(
        position_B=position_B,
        adv_BCHW=adv_BCHW,
        broken_by_B=torch.full((len(position_B),), -1, dtype=torch.int8),
        prediction_B=arrays["prediction_EN"][step, position_B],
        margin_B=arrays["margin_EN"][step, position_B],
        confidence_B=arrays["confidence_EN"][step, position_B],
        next_attack=0,
        costs=[Costs() for _ in judge.stages],
    )


def run_attack(judge: "Judge", block: Block, target: Target, eps: float, path: Path) -> float:
    """The next attack of the protocol on what the ones before left standing, in place in `block`, whose file is at `path`.

    A standing image keeps the point of smallest margin over all attacks, and what the smaller eps found: the next eps starts
    there, and margins never rise with eps. Returns the seconds that went into it before an interruption.
    """
    number, before = block.next_attack, 0.0
    stage = judge.stages[number]
    standing_A = (block.broken_by_B < 0).nonzero()[:, 0]
    judge.meter.attack(stage.name)
    if len(standing_A):
        counted = Watched(judge.subject.attacked, judge.meter.images)
        judging = Watched(judge.subject.exact, judge.meter.images)
        place = f"{stage.name} at eps {eps * 255:g}/255" if judge.protocol.norm == "l_inf" else f"{stage.name} at eps {eps:g}"

        def work() -> tuple[Tensor, Tensor, float]:
            counted.reset()  # what an attempt that ran out of memory did is not the attack's cost
            counted.keeper = inside = Inside(path, block, counted, standing_A, judge.limits.batch_size)
            found = _call(judge, counted, stage, number, standing_A, target, eps)
            return found, judge.logits(found, judging), inside.earlier

        started = time.perf_counter()
        found_ACHW, logits_AC, before = judge.limits.attempt(work, place)
        _keep_best(block, standing_A, found_ACHW, logits_AC.cpu(), target.label_B[standing_A], number)
        cost = block.costs[number]
        cost.attacked = len(standing_A)
        cost.forwards, cost.backwards = counted.forwards + len(standing_A), counted.backwards
        cost.gradients = vars(counted.gradients)
        cost.seconds = before + time.perf_counter() - started
    block.next_attack = number + 1
    return before


def _call(
    judge: "Judge", counted: "Watched", stage: Stage, number: int, standing_A: Tensor, target: Target, eps: float
) -> Tensor:
    """The attack's adversarial images. It gets the whole block where it refills its batch itself."""
    refills = _takes(stage, "batch_size")
    batch_size = judge.limits.batch_size
    device = judge.subject.device
    found = []
    parts = standing_A.split(batch_size * BLOCK_BATCHES if refills else batch_size)
    if len(parts) > 1:  # a state says nothing of the parts before; happens where an attack refills no batch, or memory is short
        counted.keeper = None
    for row_A in parts:
        words: dict[str, Any] = {"batch_size": batch_size} if refills else {}
        keys = [f"{judge.protocol.seed}:{stage.name}:{number}:{eps!r}:{i}" for i in target.index_B[row_A].tolist()]
        with torch.autocast(device.type, torch.bfloat16, enabled=judge.subject.autocast):
            found_ACHW = stage.attack(
                counted,
                target.image_BCHW[row_A].to(device),
                target.label_B[row_A].to(device),
                eps,
                norm=judge.protocol.norm,
                start_BCHW=None if target.start_BCHW is None else target.start_BCHW[row_A].to(device),
                keep_best=True,
                stop_when_broken=True,
                generator=[_generator(key) for key in keys],
                **words,
                **stage.params,
            )
        found.append(found_ACHW.detach().float().cpu())
    return torch.cat(found)


def _keep_best(block: Block, row_A: Tensor, found_ACHW: Tensor, logits_AC: Tensor, label_A: Tensor, number: int) -> None:
    prediction_A, margin_A, confidence_A = answers(logits_AC, label_A)
    broken_A = prediction_A != label_A
    better_A = broken_A | (margin_A < block.margin_B[row_A])
    row = row_A[better_A]
    block.adv_BCHW[row] = found_ACHW[better_A]
    block.prediction_B[row], block.margin_B[row] = prediction_A[better_A], margin_A[better_A]
    block.confidence_B[row] = confidence_A[better_A]
    block.broken_by_B[row_A[broken_A]] = number


class Watched(CountedModel):
    """Counts, tells the bar, and says where the attack is kept."""

    def __init__(self, logits_fn: Any, tell: Any) -> None:
        super().__init__(logits_fn)
        self.tell = tell
        self.keeper: Inside | None = None

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        self.tell(len(image_BCHW))
        return super().__call__(image_BCHW)


def _takes(stage: Stage, keyword: str) -> bool:
    parameters = inspect.signature(stage.attack).parameters
    return keyword in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _generator(key: str) -> torch.Generator:
    """Random numbers that belong to one image at one eps: neither batch size nor an interruption can change them."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little"))


def store_8bit(adv_BCHW: Tensor, image_BCHW: Tensor, eps: float, norm: str) -> Tensor:
    """The adversarial images as a picture file holds them: 256 levels, under `l_inf` moved no further than eps allows."""
    level_BCHW = (adv_BCHW * 255).round()
    if norm == "l_inf":  # rounding may step outside by half a level
        low, high = ((image_BCHW - eps) * 255 - 1e-4).ceil(), ((image_BCHW + eps) * 255 + 1e-4).floor()
        level_BCHW = torch.where(low <= high, level_BCHW.clamp(low, high), level_BCHW)
    return level_BCHW.clamp(0, 255) / 255
