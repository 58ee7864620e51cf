"""Error bars and comparisons for accuracies. Nothing here needs more than counts and per-image outcomes.

Shapes: `N` images. All intervals are 95 %.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tima.errors import ResultError

Z95 = 1.959963984540054  # the normal distribution's 97.5 % point
Counts = tuple[tuple[int, int, int], ...]  # of each set: right in a only, right in b only, images


def wilson(correct: float, n: float) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927, JASA 22:209). Honest at 0 and n, unlike the normal interval.

    Counts need not be whole: outcomes that depend on each other are worth fewer independent ones.

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


def macro_average(counts: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
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
    return stratified_bootstrap([(a_N, b_N)], seed, resamples)


def stratified_bootstrap(
    pairs: Sequence[tuple[Any, Any]], seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Difference of two macro averages over data sets, each set's images resampled in pairs within the set.

    Args:
        pairs: (a_N, b_N) of each set: whether each model is right on each image, the same images in the same order.

    Returns:
        (mean over sets of accuracy of a - accuracy of b, low, high) as fractions.

    Raises:
        ResultError: no sets, an empty set, or lengths that differ.
    """
    return _bootstrap(tuple(_discordant(pairs)), seed, resamples)


@lru_cache(4096)  # a report asks for the same differences for its page and for each of its tables
def _bootstrap(counts: Counts, seed: int, resamples: int) -> tuple[float, float, float]:
    rng, drawn_R = np.random.default_rng(seed), np.zeros(resamples)
    for only_a, only_b, n in counts:
        drawn = rng.multinomial(n, [only_a / n, only_b / n, (n - only_a - only_b) / n], size=resamples)
        drawn_R += (drawn[:, 0] - drawn[:, 1]) / n / len(counts)
    low, high = np.quantile(drawn_R, [0.025, 0.975])
    return sum((a - b) / n for a, b, n in counts) / len(counts), float(low), float(high)


def stratified_swap_test(pairs: Sequence[tuple[Any, Any]], seed: int = 0, resamples: int = 99_999) -> float:
    """Two-sided permutation test of equal macro averages: swap the two models' outcomes on each image by a coin.

    It is McNemar's test for several sets: with one set, or sets of equal size, it tends to the exact one. Arguments as in
    `stratified_bootstrap`. The observed order counts as one of the swaps (Phipson & Smyth 2010), so p is never 0.

    Raises:
        ResultError: as `stratified_bootstrap`.
    """
    return _swap_test(tuple(_discordant(pairs)), seed, resamples)


@lru_cache(4096)
def _swap_test(counts: Counts, seed: int, resamples: int) -> float:
    rng, drawn_R = np.random.default_rng(seed), np.zeros(resamples)
    for only_a, only_b, n in counts:
        drawn_R += (2 * rng.binomial(only_a + only_b, 0.5, size=resamples) - (only_a + only_b)) / n
    observed = abs(sum((a - b) / n for a, b, n in counts))
    return float((1 + (np.abs(drawn_R) >= observed - 1e-12).sum()) / (1 + resamples))


def holm(p_M: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of several p-values (Holm 1979, Scand. J. Stat. 6:65): below 0.05 after it is significant.

    Holds the chance of a single false claim among all of them at 5 %, whatever their dependence.

    Raises:
        ResultError: a p-value outside [0, 1].
    """
    if not all(0 <= p <= 1 for p in p_M):
        raise ResultError("p-values lie in [0, 1]; these do not.")
    adjusted, largest = [0.0] * len(p_M), 0.0
    for rank, index in enumerate(sorted(range(len(p_M)), key=lambda i: p_M[i])):
        largest = max(largest, min(1.0, (len(p_M) - rank) * p_M[index]))
        adjusted[index] = largest
    return adjusted


def _discordant(pairs: Sequence[tuple[Any, Any]]) -> list[tuple[int, int, int]]:
    """(right in a only, right in b only, images) of each set."""
    if not pairs:
        raise ResultError("There is nothing to compare: no data sets were given.")
    found = []
    for a_N, b_N in pairs:
        a, b = _paired(a_N, b_N)
        if len(a) == 0:
            raise ResultError("There are no images to compare.")
        found.append((int((a & ~b).sum()), int((~a & b).sum()), len(a)))
    return found


def _paired(a_N: Any, b_N: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a_N, dtype=bool), np.asarray(b_N, dtype=bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise ResultError(
            f"Models are compared on the same images, one outcome each; these have shapes {a.shape} and {b.shape}. "
            "Evaluate both with the same protocol, which draws the same images."
        )
    return a, b


def _check_counts(correct: float, n: float) -> None:
    if not 0 <= correct <= n:
        raise ResultError(f"{correct} correct of {n} cannot be.")
