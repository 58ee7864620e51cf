"""What an eps in progress leaves on disk: one file a block of images, finished or between two attacks.

Shapes: `B` images of a block, `S` of them that survived the eps, `K` of them whose adversarial image is kept, `A` attacks,
`C` channels, `H, W` pixels. Every file appears whole or not at all, so a kill costs the attack in progress on one block.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tima._files import atomic_path
from tima.errors import ResultError


@dataclass
class Costs:
    """What one attack did on one block."""

    attacked: int = 0
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    gradients: dict[str, int] = field(default_factory=dict)  # fields of GradientStats


@dataclass
class Block:
    """Images under attack at one eps, between two attacks.

    Attributes:
        position_B: which of the images evaluated.
        adv_BCHW: the best found, fp32: a misclassified point, else the one of smallest margin.
        broken_by_B: number of the attack that broke the image; -1 while it stands.
        prediction_B, margin_B, confidence_B: the model's answer at `adv_BCHW`, in fp32.
        next_attack: attacks before this one are done.
        costs: one an attack.
    """

    position_B: Tensor
    adv_BCHW: Tensor
    broken_by_B: Tensor
    prediction_B: Tensor
    margin_B: Tensor
    confidence_B: Tensor
    next_attack: int
    costs: list[Costs]


BLOCK_TENSORS = ("position_B", "adv_BCHW", "broken_by_B", "prediction_B", "margin_B", "confidence_B")


def write_block(path: Path, block: Block) -> None:
    """Keep a block between two attacks."""
    facts = {"next_attack": block.next_attack, "costs": [vars(cost) for cost in block.costs]}
    write_tensors(path, {name: getattr(block, name) for name in BLOCK_TENSORS}, facts)


def read_block(path: Path) -> Block:
    tensors, facts = read_tensors(path)
    costs = [Costs(**cost) for cost in facts["costs"]]
    return Block(**{name: tensors[name] for name in BLOCK_TENSORS}, next_attack=facts["next_attack"], costs=costs)


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Tensors and JSON facts in one safetensors file, atomically.

    Raises:
        TimaError: the disk is full; what was there before is untouched.
    """
    with atomic_path(path) as part:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, part, metadata={"facts": json.dumps(facts)})


def read_tensors(path: Path, leave: tuple[str, ...] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote, without the tensors named in `leave`.

    Raises:
        ResultError: missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            if not leave:
                return dict(load_file(path)), facts
            return {name: file.get_tensor(name) for name in file.keys() if name not in leave}, facts  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ResultError(f"{path} is missing or damaged ({error}).") from error


class Offsets:
    """The perturbations of the survivors of an eps, read row by row from the files of its blocks."""

    def __init__(self, paths: list[Path], shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.place: dict[int, tuple[Path, int]] = {}
        for path in paths:
            tensors, _ = read_tensors(path, leave=("offset_SCHW", "kept_KCHW"))
            self.place.update({p: (path, row) for row, p in enumerate(tensors["survivor_S"].tolist())})

    def missing(self, position_N: Tensor) -> bool:
        return any(p not in self.place for p in position_N.tolist())

    def read(self, position_B: Tensor) -> Tensor:
        """`offset_BCHW`, fp32."""
        found_BCHW = torch.empty(len(position_B), *self.shape)
        by_file: dict[Path, list[tuple[int, int]]] = {}
        for i, position in enumerate(position_B.tolist()):
            path, row = self.place[position]
            by_file.setdefault(path, []).append((i, row))
        for path, rows in by_file.items():
            try:
                with safe_open(path, framework="pt") as file:
                    slices = file.get_slice("offset_SCHW")
                    for i, row in rows:
                        found_BCHW[i] = slices[row : row + 1][0].float()
            except (OSError, SafetensorError) as error:
                raise ResultError(f"{path} is missing or damaged ({error}).") from error
        return found_BCHW
