"""Which classes take part in a training step, when the list is too long to encode all of it every time.

The labels that are present, and others drawn evenly without replacement. Every process and every part of an accumulated batch
draws the same ones, because the seed is the step's and the labels are those of the whole batch.

The error: a cross-entropy over the sample leaves the classes that were not drawn out of its sum, so it is too small, and the
classes that are there push too weakly. `log_weight_M` makes up for it: a drawn class stands for (C - P) / (M - P) of its kind
(P labels present), so this factor's logarithm on its logit makes the sum over classes right on average. What remains is the
noise of the draw, and a loss too small by about half its relative variance (Jensen). benchmarks/class_sample.py measures both.

Shapes: `C` classes of the data, `M` classes of the step, `B` images.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClassSample:
    """The classes of one step.

    Args:
        seed: for further draws of this step that all processes share.
        class_M: indices in rising order; None is the whole list.
        log_weight_M: 0 for labels that are present, the logarithm of what a drawn class stands for; None: no correction.
    """

    seed: int = 0
    class_M: Tensor | None = None
    log_weight_M: Tensor | None = None

    def renumber(self, label_B: Tensor) -> Tensor:
        """Labels of the whole list as positions in the sample. All of them must be in it."""
        return label_B if self.class_M is None else torch.searchsorted(self.class_M.to(label_B.device), label_B)


def draw_classes(n_classes: int, label_B: Tensor, size: int | None, seed: int, *, correct: bool) -> ClassSample:
    """`size` classes: the labels of the batch, over all processes, and others. More than `size` if the labels alone are more.

    Args:
        size: None, or as many as there are, leaves the list whole.
        correct: weigh the drawn classes for those that were not.
    """
    present_P = label_B.unique()
    if size is None or size >= n_classes or len(present_P) == n_classes:
        return ClassSample(seed)
    absent = torch.ones(n_classes, dtype=torch.bool)
    absent[present_P] = False
    other_N = absent.nonzero()[:, 0]
    order_N = torch.randperm(len(other_N), generator=torch.Generator().manual_seed(seed))
    drawn_K = other_N[order_N[: max(size - len(present_P), 0)]]
    class_M = torch.cat([present_P, drawn_K]).sort().values
    if not correct or not len(drawn_K):  # with labels alone there is nobody who could stand for the others
        return ClassSample(seed, class_M)
    return ClassSample(seed, class_M, absent[class_M] * math.log(len(other_N) / len(drawn_K)))
