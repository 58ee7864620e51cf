"""Error bars and comparisons for accuracies. Nothing here needs more than counts and per-image outcomes.

Shapes: `N` images. All intervals are 95 %.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tima.errors import ResultError

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927, JASA 22:209). Honest at 0 and n, unlike the normal interval.

    Returns:
        (low, high) as fractions; (0, 1) when `n` is 0.

    Raises:
        ResultError: counts that cannot be.
    """
    _check_counts(correct, n)
    if n == 0:
        return 0.0, 1.0
    p, z2 = correct / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    # at the ends the exact bound is 0 or 1; rounding would miss it by 1e-17
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == n else centre + half)


def macro_average(counts: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Unweighted mean of several sets' accuracies with a normal interval from their binomial variances.

    Each variance is taken at the proportion of Agresti & Coull (1998, Am. Stat. 52:119), `(correct + z^2/2) / (n + z^2)`:
    at the raw proportion a set with 0 of n correct would claim to be known without error.

    Args:
        counts: (correct, n) of each set.

    Returns:
        (mean, low, high) as fractions, clipped to [0, 1].

    Raises:
        ResultError: no sets, an empty set, or counts that cannot be.
    """
    if not counts:
        raise ResultError("There is nothing to average: no data sets were given.")
    variance = 0.0
    for correct, n in counts:
        _check_counts(correct, n)
        if n == 0:
            raise ResultError("A data set without images has no accuracy to average.")
        p = (correct + Z95**2 / 2) / (n + Z95**2)
        variance += p * (1 - p) / (n + Z95**2)
    mean = sum(correct / n for correct, n in counts) / len(counts)
    half = Z95 * math.sqrt(variance) / len(counts)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def mcnemar(a_N: Any, b_N: Any) -> float:
    """Exact two-sided McNemar test: could two models that differ on these images be equally good?

    McNemar 1947, Psychometrika 12:153: only the images on which exactly one is right count, and under equality each
    falls to either side like a coin.

    Args:
        a_N, b_N: whether each model is right on each image (bools; the same images in the same order).

    Returns:
        p-value; 1 when they agree everywhere.

    Raises:
        ResultError: lengths that differ.
    """
    a, b = _paired(a_N, b_N)
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    total, fewer = only_a + only_b, min(only_a, only_b)
    term = tail = 1  # binomial coefficients as integers: no rounding however many images
    for k in range(1, fewer + 1):
        term = term * (total - k + 1) // k
        tail += term
    return min(1.0, 2 * tail / 2**total)


def paired_bootstrap(a_N: Any, b_N: Any, seed: int = 0, resamples: int = 10_000) -> tuple[float, float, float]:
    """Difference of two accuracies on the same images with a percentile bootstrap interval (Efron 1979).

    An image contributes -1, 0 or 1, so resampling images is drawing three counts from a multinomial: exact and fast.

    Returns:
        (accuracy of a - accuracy of b, low, high) as fractions.

    Raises:
        ResultError: lengths that differ, or no images.
    """
    a, b = _paired(a_N, b_N)
    if len(a) == 0:
        raise ResultError("There are no images to compare.")
    only_a, only_b, n = int((a & ~b).sum()), int((~a & b).sum()), len(a)
    shares = [only_a / n, only_b / n, (n - only_a - only_b) / n]
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [0.025, 0.975])
    return (only_a - only_b) / n, float(low), float(high)


def _paired(a_N: Any, b_N: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a_N, dtype=bool), np.asarray(b_N, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise ResultError(
            f"Models are compared on the same images, one outcome each; these have shapes {a.shape} and {b.shape}. "
            "Evaluate both with the same protocol, which draws the same images."
        )
    return a, b


def _check_counts(correct: int, n: int) -> None:
    if not 0 <= correct <= n:
        raise ResultError(f"{correct} correct of {n} cannot be.")
