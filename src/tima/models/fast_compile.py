"""`lean.image_features` through torch.compile, with few sizes of batch, and without it where no compiler works.

Attacks shrink their batches, and every new size would be a new compilation of most of a minute (one for all sizes takes far
longer). So batches are padded to the largest one seen, its half or its quarter, and smaller ones run uncompiled.
Shapes: `B` images, `C` channels, `H, W` pixels, `D` embedding width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tima.models import lean


class CompiledTower:
    """Weights and pixels in [0, 1] to un-normalised embeddings `B x D`.

    Args:
        notes: gets a line when nothing can be compiled here; the tower then runs uncompiled.
        mode: of torch.compile.
        whole_only: compile for the largest batch alone, as in training, where all are of one size.
    """

    def __init__(self, notes: list[str], mode: str | None = None, whole_only: bool = False) -> None:
        self.notes, self.mode, self.whole_only = notes, mode, whole_only
        words: dict[str, Any] = {"dynamic": False} | ({"mode": mode} if mode else {})
        self._run: Callable[[lean.LeanWeights, Tensor], Tensor] = torch.compile(lean.image_features, **words)
        self._works: bool | None = None
        self._largest = 0

    def __call__(self, weights: lean.LeanWeights, image_BCHW: Tensor) -> Tensor:
        with torch.autocast(image_BCHW.device.type, enabled=False):  # around it: what surrounds a call is compiled in
            return self._call(weights, image_BCHW)

    def _call(self, weights: lean.LeanWeights, image_BCHW: Tensor) -> Tensor:
        number = len(image_BCHW)
        self._largest = max(self._largest, number)
        size = bucket(number, self._largest)
        if self.whole_only and number != self._largest:
            size = None
        if self._works is False or size is None:
            return lean.image_features(weights, image_BCHW)
        # copies of the last image, not zeros: nothing that is computed from them can be NaN where the batch is not
        padded_BCHW = torch.cat([image_BCHW, image_BCHW[-1:].detach().expand(size - number, -1, -1, -1)])
        if self._works:
            return self._taken(self._run(weights, padded_BCHW), number)
        try:
            feature_BD = self._taken(self._run(weights, padded_BCHW), number)
        except Exception as error:  # no compiler, a broken one, an unknown processor: each raises its own
            self._works = False
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if (line := f"not compiled: {why[:200]}") not in self.notes:
                self.notes.append(line)
            return lean.image_features(weights, image_BCHW)
        self._works = True
        return feature_BD

    def _taken(self, feature_BD: Tensor, number: int) -> Tensor:
        # a replayed CUDA graph writes its next answer where this one lies
        return feature_BD[:number].clone() if self.mode == "reduce-overhead" else feature_BD[:number]


def bucket(number: int, largest: int) -> int | None:
    """The size to which a batch of `number` images is padded where the largest batch has `largest`; None: not worth it."""
    sizes = (-(-largest // 4), -(-largest // 2), largest)
    return next((size for size in sizes if size < 2 * number and number <= size), None)
