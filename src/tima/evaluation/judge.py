"""One model judged on one set of images: one pass for each eps over what still stands, block by block.

Shapes: `N` images evaluated, `B` images of a block, `S` of them that survived, `K` images whose adversarial versions are kept
(gallery and health probe), `C` channels or classes, `H, W` pixels, `E` eps.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tima.attacks import Stage
from tima.eps import eps_text
from tima.errors import DataError
from tima.evaluation.attack import Target, open_block, run_attack, store_8bit
from tima.evaluation.inside import inside_path
from tima.evaluation.limits import Limits
from tima.evaluation.meter import Meter
from tima.evaluation.parts import Block, Offsets, write_block, write_tensors
from tima.evaluation.shards import Shards
from tima.evaluation.source import Source
from tima.evaluation.store import Store
from tima.evaluation.subject import LogitsFn, Subject, exact_logits
from tima.protocols import Protocol

if TYPE_CHECKING:
    from tima.health import Memory


@dataclass
class Judge:
    """One model on one set of images: loads, attacks and judges."""

    subject: Subject
    source: Source
    protocol: Protocol
    stages: list[Stage]
    classes: int
    limits: Limits
    shards: Shards
    store: Store
    meter: Meter
    kept_K: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    health_memory: dict[tuple[int, ...], "Memory"] = field(default_factory=dict)  # of each probe, by its positions

    def robust(self, step: int, arrays: dict[str, Tensor]) -> None:
        """This process's share of eps number `step`: the images that the smaller ones left standing, into the store."""
        eps = self.protocol.eps[step]
        standing_N = (arrays["correct_N"] if step == 0 else arrays["robust_EN"][step - 1]).nonzero()[:, 0]
        found = self.store.survey(step)
        offsets = self.store.offsets(step, self.source.shape, standing_N)
        begun = [self.store.take(path) for path in found.begun]
        self.shards.wait()  # everybody has looked before anybody writes
        taken_N = torch.cat([found.done_N, *(block.position_B for block in begun)])
        fresh_N = self.shards.share(standing_N[~torch.isin(standing_N, taken_N)])
        mine = list(zip(found.begun, begun, strict=True))[self.shards.rank :: self.shards.size]
        count = len(self.stages)
        todo = count * len(fresh_N) + sum((count - block.next_attack) * len(block.position_B) for _, block in mine)
        self.meter.begin(eps_text(eps), todo, len(arrays["label_N"]), len(standing_N))
        for path, block in mine:
            self._block(step, block.position_B, block, path, arrays, offsets)
        for position_B in fresh_N.split(self.limits.block(self.source.shape)):
            if len(position_B):
                path = self.store.next_name(step, "begun")
                self._block(step, position_B, None, path, arrays, offsets)

    def _block(
        self,
        step: int,
        position_B: Tensor,
        block: Block | None,
        path: Path,
        arrays: dict[str, Tensor],
        offsets: Offsets | None,
    ) -> None:
        """All attacks on one block; its state is on disk after each of them."""
        eps, started = self.protocol.eps[step], time.perf_counter()
        target = self._target(position_B, arrays, offsets)
        if block is None:
            block = open_block(self, position_B, target, eps, arrays, step)
        earlier = sum(cost.seconds for cost in block.costs)  # before an interruption
        while block.next_attack < len(self.stages):
            before = int((block.broken_by_B < 0).sum())
            earlier += run_attack(self, block, target, eps, path)
            broken = before - int((block.broken_by_B < 0).sum())
            left = len(self.stages) - block.next_attack
            self.meter.advance(before + broken * left, broken)
            if left and before > broken:
                write_block(path, block)
                inside_path(path).unlink(missing_ok=True)
            else:
                block.next_attack = len(self.stages)
        self._finish(path, block, target, eps, earlier + time.perf_counter() - started)

    def _finish(self, path: Path, block: Block, target: Target, eps: float, seconds: float) -> None:
        """What is needed of a finished block from here on."""
        broken_B = block.broken_by_B >= 0
        stored_B = torch.zeros_like(broken_B)
        if self.protocol.adversarial_8bit and bool(broken_B.any()):
            rounded = store_8bit(block.adv_BCHW[broken_B], target.image_BCHW[broken_B], eps, self.protocol.norm)
            stored_B[broken_B] = self.logits(rounded).argmax(1).cpu() != target.label_B[broken_B]
        kept_B = torch.isin(block.position_B, self.kept_K)
        tensors = {
            "position_B": block.position_B,
            "broken_by_B": block.broken_by_B,
            "prediction_B": block.prediction_B,
            "margin_B": block.margin_B,
            "confidence_B": block.confidence_B,
            "broken_8bit_B": stored_B,
            "survivor_S": block.position_B[~broken_B],
            "offset_SCHW": (block.adv_BCHW - target.image_BCHW)[~broken_B].half(),
            "kept_position_K": block.position_B[kept_B],
            "kept_KCHW": block.adv_BCHW[kept_B],
        }
        facts = {
            "costs": [vars(cost) for cost in block.costs],
            "seconds": seconds,
            "rank": self.shards.rank,
            "fallbacks": self.limits.fallbacks,
        }
        write_tensors(path.with_suffix(".block"), tensors, facts)
        self.limits.fallbacks = []
        for done in (inside_path(path), path):
            done.unlink(missing_ok=True)

    def _target(self, position_B: Tensor, arrays: dict[str, Tensor], offsets: Offsets | None) -> Target:
        index_B = arrays["index_N"][position_B]
        image_BCHW, label_B = self.load(index_B)
        start_BCHW = None if offsets is None else image_BCHW + offsets.read(position_B)
        return Target(image_BCHW, start_BCHW, label_B, index_B)

    def load(self, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """Images and classes on the CPU, of images that were readable before."""
        loaded = self.source.load(index_B)
        if loaded.bad:
            raise DataError(f"{loaded.bad[0].where} was readable before and is not any more: {loaded.bad[0].why}.")
        return loaded.image_BCHW.cpu(), loaded.label_B.cpu()

    def logits(self, image_BCHW: Tensor, model: LogitsFn | None = None) -> Tensor:
        """Checked fp32 logits, a batch at a time; `model` stands in for the judge (it counts)."""
        subject = self.subject
        if model is not None:
            subject = Subject(subject.name, model, model, subject.device)
        where = self.source.name
        return self.limits.chunked(lambda part: exact_logits(subject, part, where), image_BCHW, f"judging '{where}'")
