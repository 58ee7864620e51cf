"""An attack in progress on one block, kept every few minutes between two of its steps: a kill costs no more than these.

The file lies beside the block's (`STEP.PROCESS.NUMBER.inside`). Going on, it is believed only for the same attack on the same
images with the same batch size, which decides who is in the batch, from searches that keep the same; else the attack begins
again. Either way the result is that of an undisturbed run, to the bit. Shapes: `A` images that still stand.
"""

import hashlib
import time
from pathlib import Path

from torch import Tensor

from tima.attacks import CountedModel
from tima.attacks.counting import GradientStats
from tima.errors import ResultError
from tima.evaluation.parts import Block, read_tensors, write_block, write_tensors

STATE = 2  # what searches keep; a state of another kind is not believed
EVERY = 300.0  # seconds; a state of 250 images at 224 px is about a gigabyte, a few seconds of writing


def inside_path(path: Path) -> Path:
    """Where the attack in progress on the block at `path` is kept."""
    return path.with_suffix(".inside")


class Inside:
    """The `keeper` of one attack on one block (see `tima.attacks._kept`).

    Attributes:
        earlier: seconds that earlier calls spent on the attack, as far as their work is kept.
    """

    def __init__(self, path: Path, block: Block, counted: CountedModel, standing_A: Tensor, batch_size: int) -> None:
        self.path, self.block, self.counted = path, block, counted
        chosen = block.position_B[standing_A].tolist()
        text = f"state {STATE}, attack {block.next_attack}, {batch_size} in the batch, images {chosen}"
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.began = self.last = time.monotonic()
        self.earlier = 0.0

    def due(self) -> bool:
        return time.monotonic() - self.last >= EVERY

    def save(self, tensors: dict[str, Tensor]) -> None:
        if not self.path.is_file():  # who is in the block, before what is being done to it
            write_block(self.path, self.block)
        counted = self.counted
        facts = {
            "key": self.key,
            "seconds": self.earlier + time.monotonic() - self.began,
            "counted": {"forwards": counted.forwards, "backwards": counted.backwards},
            "gradients": vars(counted.gradients),
        }
        write_tensors(inside_path(self.path), _apart(tensors), facts)
        self.last = time.monotonic()

    def load(self) -> dict[str, Tensor] | None:
        path = inside_path(self.path)
        if not path.is_file():
            return None
        try:
            tensors, facts = read_tensors(path)
        except ResultError:  # damaged: what it would have saved is done again
            return None
        if facts["key"] != self.key:
            return None
        self.earlier = facts["seconds"]
        self.counted.reset(**facts["counted"], gradients=GradientStats(**facts["gradients"]))
        return tensors


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each in memory of its own: a search begins with several names for one, which the file format refuses."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        where = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if where in seen else tensor
        seen.add(where)
    return found
