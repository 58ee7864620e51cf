"""Sums over all pairs of classes in bounded memory: no `C x C` matrix above a few thousand classes.

Means and extremes of a function of the cosine go through blocks of rows, whose parts are computed again in the backward pass
instead of being kept: the same value and gradient as from the whole matrix. Pearson's correlation of two lists of cosines needs
no pairs at all: its sums are those of `D x D` matrices.

Shapes: `C` classes, `D` embedding width, `R` rows of a block, `K` classes drawn to stand for all.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK = 2**22  # entries of a block: 16 MiB in fp32, and one block up to 2,048 classes

Value = Callable[[Tensor], Tensor]  # of cosines, entry by entry


def blocks(n_classes: int, width: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows such that a block of `width` columns stays within `BLOCK` entries."""
    rows = max(1, BLOCK // max(width, 1))
    return ((start, min(start + rows, n_classes)) for start in range(0, n_classes, rows))


def pair_mean(text_CD: Tensor, value: Value, column_K: Tensor | None = None) -> Tensor:
    """Mean of `value(cosine)` over all pairs of different classes; with gradients.

    Args:
        column_K: different classes that stand for all: the mean is over the pairs of any class with one of these. Drawn evenly,
            its expectation is the whole mean. So is that of its gradient, which goes to the other side of a pair alone, twice:
            every class then learns from as many others, instead of few classes from all.
    """
    n_classes = len(text_CD)
    if column_K is None:

        def above(row_RD: Tensor, rest_CD: Tensor) -> Tensor:  # a symmetric matrix: the entries right of the diagonal
            return value(row_RD @ rest_CD.T).triu(1).sum()

        spans = list(blocks(n_classes, n_classes))
        sums = [_lean(above, text_CD[a:b], text_CD[a:], kept=len(spans) == 1) for a, b in spans]
        return torch.stack(sums).sum() * (2 / (n_classes * (n_classes - 1)))
    drawn_KD = text_CD[column_K].detach()
    own_C = torch.full((n_classes,), -1, device=text_CD.device)
    own_C[column_K] = torch.arange(len(column_K), device=text_CD.device)

    def others(row_RD: Tensor, drawn_KD: Tensor, own_R: Tensor) -> Tensor:
        same_RK = own_R[:, None] == torch.arange(len(drawn_KD), device=own_R.device)
        return value(row_RD @ drawn_KD.T).masked_fill(same_RK, 0).sum()

    spans = list(blocks(n_classes, len(column_K)))
    sums = [_lean(others, text_CD[a:b], drawn_KD, own_C[a:b], kept=len(spans) == 1) for a, b in spans]
    total = torch.stack(sums).sum() / (len(column_K) * (n_classes - 1))
    return 2 * total - total.detach()


def pair_range(text_CD: Tensor, value: Value) -> tuple[Tensor, Tensor]:
    """Smallest and largest `value(cosine)` over all pairs of different classes; infinities where there is no pair."""
    lows, highs = [], []
    for a, b in blocks(len(text_CD), len(text_CD)):
        value_RC = value(text_CD[a:b] @ text_CD.T)
        own_RC = torch.arange(a, b, device=text_CD.device)[:, None] == torch.arange(len(text_CD), device=text_CD.device)
        lows.append(value_RC.masked_fill(own_RC, torch.inf).amin())
        highs.append(value_RC.masked_fill(own_RC, -torch.inf).amax())
    return torch.stack(lows).amin(), torch.stack(highs).amax()


def pair_moments(first_CD: Tensor, second_CE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variance of the off-diagonal cosines of `first`, of `second`, and their covariance, as fp64 scalars.

    sum_jk (f_j . f_k)(g_j . g_k) = || F^T G ||^2: linear in the number of classes. The differences of large sums want fp64.
    """
    # a device without fp64 (Apple's) loses four digits of the correlation, not more
    wide = torch.float32 if first_CD.device.type == "mps" else torch.float64
    f_CD, g_CE = first_CD.to(wide), second_CE.to(wide)
    n_pairs = len(f_CD) * (len(f_CD) - 1)

    def mean(x_CD: Tensor) -> Tensor:
        return (x_CD.sum(0).square().sum() - x_CD.square().sum()) / n_pairs

    def product(x_CD: Tensor, y_CD: Tensor) -> Tensor:
        own_C = x_CD.square().sum(1) * y_CD.square().sum(1)
        few = len(x_CD) < x_CD.shape[1]  # then the matrix of the pairs is the smaller one
        all_pairs = ((x_CD @ x_CD.T) * (y_CD @ y_CD.T)).sum() if few else (x_CD.T @ y_CD).square().sum()
        return (all_pairs - own_C.sum()) / n_pairs - mean(x_CD) * mean(y_CD)

    return product(f_CD, f_CD), product(g_CE, g_CE), product(f_CD, g_CE)


def _lean(function: Callable[..., Tensor], *inputs: Tensor, kept: bool) -> Tensor:
    """The function's value; what its gradient needs is computed again instead of kept, unless `kept`."""
    if kept or not torch.is_grad_enabled():
        return function(*inputs)
    found: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return found
