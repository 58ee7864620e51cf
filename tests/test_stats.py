"""Error bars against published values and independent implementations."""

import numpy as np
import pytest
from scipy.stats import binomtest

from tima.errors import ResultError
from tima.stats import holm, macro_average, mcnemar, paired_bootstrap, stratified_bootstrap, stratified_swap_test, wilson


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_newcombe_1998_table_1(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (3, 7), (250, 250), (517, 1000)])
def test_wilson_equals_scipy(correct: int, n: int) -> None:
    expected = binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_without_images_knows_nothing_and_impossible_counts_are_refused() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ResultError, match="5 correct of 4"):
        wilson(5, 4)


def test_macro_average_weighs_sets_equally_and_covers_the_truth() -> None:
    mean, low, high = macro_average([(50, 100), (900, 1000)])
    assert mean == pytest.approx(0.7)
    assert low < mean < high
    rng, truth, inside = np.random.default_rng(0), (0.02, 0.5, 0.8), 0
    for _ in range(400):
        _, low, high = macro_average([(int(rng.binomial(150, p)), 150) for p in truth])
        inside += low <= np.mean(truth) <= high
    assert 0.92 <= inside / 400 <= 0.985


def test_macro_average_of_zeros_is_not_certain() -> None:
    mean, low, high = macro_average([(0, 250)] * 4)
    assert (mean, low) == (0.0, 0.0)
    assert 0 < high < 0.02
    for counts in ([], [(0, 0)]):
        with pytest.raises(ResultError):
            macro_average(counts)


@pytest.mark.parametrize(("only_a", "only_b", "both"), [(0, 0, 9), (5, 5, 3), (12, 3, 30), (0, 17, 0), (400, 461, 2000)])
def test_mcnemar_equals_the_binomial_test(only_a: int, only_b: int, both: int) -> None:
    a = [True] * only_a + [False] * only_b + [True] * both
    b = [False] * only_a + [True] * only_b + [True] * both
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b, a) == mcnemar(a, b)


def test_paired_bootstrap_equals_resampling_images() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(300) < 0.6, rng.random(300) < 0.5
    difference, low, high = paired_bootstrap(a, b, seed=1)
    assert difference == pytest.approx(a.mean() - b.mean())
    drawn = rng.integers(0, 300, (5000, 300))
    slow = np.quantile(a[drawn].mean(1) - b[drawn].mean(1), [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(slow), abs=0.012)
    assert paired_bootstrap(a, b, seed=1) == (difference, low, high)


def test_paired_comparisons_need_the_same_images() -> None:
    for compare in (mcnemar, paired_bootstrap):
        with pytest.raises(ResultError, match="same images"):
            compare([True, False], [True])
    with pytest.raises(ResultError, match="no images"):
        paired_bootstrap([], [])


def test_stratified_bootstrap_equals_resampling_within_sets() -> None:
    rng = np.random.default_rng(5)
    pairs = [(rng.random(n) < p, rng.random(n) < q) for n, p, q in ((80, 0.7, 0.5), (300, 0.2, 0.3))]
    difference, low, high = stratified_bootstrap(pairs, seed=1)
    assert difference == pytest.approx(np.mean([a.mean() - b.mean() for a, b in pairs]))
    slow = np.zeros(5000)
    for a, b in pairs:
        drawn = rng.integers(0, len(a), (5000, len(a)))
        slow += (a[drawn].mean(1) - b[drawn].mean(1)) / 2
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.01)
    assert stratified_bootstrap(pairs[:1], seed=1) == paired_bootstrap(*pairs[0], seed=1)


@pytest.mark.parametrize(("only_a", "only_b"), [(12, 3), (5, 5), (0, 6), (0, 0)])
def test_swap_test_of_equal_sets_is_mcnemar(only_a: int, only_b: int) -> None:
    a = np.array([True] * only_a + [False] * only_b + [True] * 20)
    b = np.array([False] * only_a + [True] * only_b + [True] * 20)
    exact = mcnemar(np.concatenate([a, a]), np.concatenate([b, b]))
    assert stratified_swap_test([(a, b), (a, b)]) == pytest.approx(exact, abs=0.006)
    assert stratified_swap_test([(a, b)]) == pytest.approx(mcnemar(a, b), abs=0.006)


def test_swap_test_of_unequal_sets_equals_all_swaps_by_hand() -> None:
    # set 1: 4 images, a better on 2; set 2: 2 images, a better on 1. Eight equally likely swaps of the three:
    # |+-1/4 +-1/4 +-1/2| >= 1 only for +++ and ---, so p = 2/8
    pairs = [([1, 1, 0, 0], [0, 0, 0, 0]), ([1, 0], [0, 0])]
    assert stratified_swap_test(pairs) == pytest.approx(0.25, abs=0.006)
    with pytest.raises(ResultError, match="no data sets"):
        stratified_swap_test([])


def test_holm_by_hand() -> None:
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, then not below its predecessor
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
    with pytest.raises(ResultError, match="p-values"):
        holm([1.5])
