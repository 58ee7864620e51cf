"""Paired comparison of two methods over several training seeds: the same images, each method's outcome averaged over its seeds.

With one seed each this is the comparison of `tima.stats`. With more, an image counts as the difference of the two shares of
seeds that got it right, which takes few distinct values, so that resampling images is again drawing counts. What varies here
are images; how far training seeds lie apart is said beside it. Shapes: `S` seeds, `N` images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np

from tima.errors import ResultError


@dataclass(frozen=True)
class Paired:
    """Mean over sets of the first method's accuracy minus the second's, its 95 % bootstrap interval, and p."""

    value: float
    low: float
    high: float
    p: float
    n: int


@dataclass(frozen=True)
class _Counts:
    """One set: distinct differences in units of 1 / `unit`, and how many images have each."""

    value_V: np.ndarray
    count_V: np.ndarray
    unit: int


def compare(pairs: Sequence[tuple[Any, Any]], *, seed: int = 0, resamples: int = 10_000, swaps: int = 99_999) -> Paired:
    """Compare on one or several sets, unweighted mean over sets.

    The interval resamples images within each set. p is that of a two-sided test that swaps the two methods on each image by a
    coin (all seeds of an image together); the observed order counts as one of the swaps, so p is never 0.

    Args:
        pairs: for each set (a_SN, b_SN): whether each seed's model is right on each image. Seeds may differ in number.

    Raises:
        ResultError: no sets, no images, or other images.
    """
    if not pairs:
        raise ResultError("There is nothing to compare: no data sets were given.")
    sets = [_counts(a, b) for a, b in pairs]
    rng, drawn_R, swapped_R, value = np.random.default_rng(seed), np.zeros(resamples), np.zeros(swaps), 0.0
    for s in sets:
        n = int(s.count_V.sum())
        drawn_R += rng.multinomial(n, s.count_V / n, size=resamples) @ s.value_V / (n * s.unit)
        for size in np.unique(np.abs(s.value_V[s.value_V != 0])):
            count = int(s.count_V[np.abs(s.value_V) == size].sum())
            swapped_R += size * (2 * rng.binomial(count, 0.5, size=swaps) - count) / (n * s.unit)
        value += float(s.value_V @ s.count_V) / (n * s.unit)
    low, high = np.quantile(drawn_R, [0.025, 0.975]) / len(sets)
    p = float((1 + (np.abs(swapped_R) >= abs(value) - 1e-12).sum()) / (1 + swaps))
    return Paired(value / len(sets), float(low), float(high), p, sum(int(s.count_V.sum()) for s in sets))


def mean_over_columns(right_KSN: Sequence[Any]) -> np.ndarray:
    """Outcomes of several columns side by side, `(K S) x N`: their mean over rows is the mean over columns and seeds."""
    return np.concatenate([np.atleast_2d(np.asarray(right_SN, dtype=bool)) for right_SN in right_KSN])


def _counts(a_SN: Any, b_SN: Any) -> _Counts:
    a, b = (np.atleast_2d(np.asarray(x, dtype=bool)) for x in (a_SN, b_SN))
    if a.shape[1] != b.shape[1] or a.shape[1] == 0 or not len(a) or not len(b):
        raise ResultError(f"Methods are compared on the same images; these have shapes {a.shape} and {b.shape}.")
    unit = lcm(len(a), len(b))
    difference_N = a.sum(0, dtype=int) * (unit // len(a)) - b.sum(0, dtype=int) * (unit // len(b))
    value_V, count_V = np.unique(difference_N, return_counts=True)
    return _Counts(value_V, count_V, unit)
