"""The study's statistics, claims, fronts and records against exact calculation, brute force and worked numbers."""

import itertools
import math

import numpy as np
import pytest
from studying import kept_run

from tima.errors import ResultError
from tima.stats import mcnemar, stratified_bootstrap
from tima.study.accuracy import accuracy_sections
from tima.study.accuracy import tests as find_tests
from tima.study.claims import DOES_NOT, HOLDS, UNDECIDED, Estimate, evenness, pool, pooled_correlation, verdict
from tima.study.compare import compare, mean_over_columns
from tima.study.fronts import Point, front
from tima.study.lines import Line, Number, View
from tima.study.records import pack, unpack

BOTH = {"x": {"method": "x"}, "y": {"method": "y"}}


def coins(n: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < share


def test_one_seed_is_mcnemars_test_and_the_paired_bootstrap() -> None:
    a, b = coins(60, 0.6, 0), coins(60, 0.45, 1)
    found = compare([(a, b)])
    assert found.value == pytest.approx(a.mean() - b.mean()) and found.n == 60
    assert found.p == pytest.approx(mcnemar(a, b), abs=0.006)  # drawn, against the exact one
    _, low, high = stratified_bootstrap([(a, b)], resamples=40_000)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1.01 / 60)  # a step of the distribution


def test_several_seeds_are_the_swap_of_whole_images() -> None:
    rng = np.random.default_rng(3)
    a_SN, b_SN = rng.random((3, 7)) < 0.7, rng.random((2, 7)) < 0.4
    difference_N = a_SN.mean(0) - b_SN.mean(0)
    observed = abs(difference_N.sum())
    signs = itertools.product((-1, 1), repeat=7)  # all of the swaps
    exact = np.mean([abs((np.array(s) * difference_N).sum()) >= observed - 1e-9 for s in signs])
    found = compare([(a_SN, b_SN)])
    assert found.value == pytest.approx(difference_N.mean())
    assert found.p == pytest.approx(exact, abs=0.01)
    drawn = np.array([difference_N[rng.integers(0, 7, 7)].mean() for _ in range(20_000)])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.03)


def test_sets_weigh_the_same_whatever_their_size() -> None:
    ones, zeros = np.ones(10, dtype=bool), np.zeros(10, dtype=bool)
    large = np.zeros(1000, dtype=bool)
    assert compare([(ones, zeros), (large, large)]).value == pytest.approx(0.5)
    nothing = compare([(large, large)])
    assert (nothing.value, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)
    for pairs in ([], [(ones, large)], [(np.zeros(0), np.zeros(0))]):
        with pytest.raises(ResultError):
            compare(pairs)


def test_columns_side_by_side_average() -> None:
    a, b = coins(50, 0.8, 5), coins(50, 0.3, 6)
    both = mean_over_columns([a, b])
    other = np.zeros(50, dtype=bool)
    assert compare([(both, other)]).value == pytest.approx((a.mean() + b.mean()) / 2)


@pytest.mark.parametrize(
    ("low", "high", "limit", "above", "expected"),
    [
        (0.01, 0.05, 0.0, True, HOLDS),
        (-0.05, -0.01, 0.0, True, DOES_NOT),
        (-0.01, 0.05, 0.0, True, UNDECIDED),
        (-0.005, 0.05, -0.01, True, HOLDS),  # no more than a point lost
        (0.0, 0.05, 0.0, True, UNDECIDED),
        (0.1, 0.3, 0.5, False, HOLDS),
        (0.6, 0.9, 0.5, False, DOES_NOT),
        (0.3, 0.9, 0.5, False, UNDECIDED),
    ],
)
def test_verdicts_follow_the_interval(low: float, high: float, limit: float, above: bool, expected: str) -> None:
    assert verdict(Estimate((low + high) / 2, low, high), limit, above) == expected


def test_nothing_measured_is_undecided() -> None:
    assert verdict(None, 0.0, True) == UNDECIDED


def test_evenness_is_the_coefficient_of_variation() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(2.0, 0.4, n) for n in (30, 50)]
    offsets = [(float(x.mean()), float(x.std(ddof=1)), len(x)) for x in parts]
    pooled = pool(offsets)
    assert pooled is not None and pooled[0] == pytest.approx(np.concatenate(parts).mean()) and pooled[2] == 80
    within = sum(((x - x.mean()) ** 2).sum() for x in parts) / 78
    assert pooled[1] == pytest.approx(math.sqrt(within))
    found = evenness(offsets)
    c = math.sqrt(within) / pooled[0]
    half = 1.959964 * c * math.sqrt(1 / 158 + c * c / 80)
    assert found is not None and (found.value, found.low, found.high) == pytest.approx((c, c - half, c + half))
    assert evenness([(2.0, 0.4, 9)]) is None and evenness([(-1.0, 0.4, 90)]) is None and evenness([(1.0, 0.0, 1)]) is None


def test_correlations_are_pooled_by_classes() -> None:
    one = pooled_correlation([(-0.5, 28)])  # 25 in Fisher's weight: the half width is z / 5
    assert one is not None and one.value == pytest.approx(-0.5)
    assert (one.low, one.high) == pytest.approx((math.tanh(-0.549306 - 0.391993), math.tanh(-0.549306 + 0.391993)), abs=1e-5)
    two = pooled_correlation([(-0.5, 28), (0.5, 28), (1.0, 3)])  # the last says nothing
    assert two is not None and two.value == pytest.approx(0)
    assert pooled_correlation([(0.9, 3)]) is None


def test_the_front_is_what_nobody_beats() -> None:
    def point(name: str, clean: float, robust: float) -> Point:
        return Point(name, Number(clean, 0, 1, (clean,), 1), Number(robust, 0, 1, (robust,), 1), 0)

    found = [point("a", 0.5, 0.1), point("b", 0.4, 0.3), point("c", 0.4, 0.2), point("d", 0.1, 0.3), point("e", 0.2, 0.4)]
    assert [p.name for p in front(found)] == ["a", "b", "e"]
    twins = [point("a", 0.5, 0.1), point("b", 0.5, 0.1)]
    assert [p.name for p in front(twins)] == ["a", "b"]  # neither beats the other


def test_bitmaps_keep_every_outcome() -> None:
    right = [True, False, False, True, True, False, False, False, True]
    assert pack(right) == "mIA="  # 10011000 10000000, by hand: 0x98 0x80
    assert unpack("mIA=", 9).tolist() == right
    for n in (1, 8, 250, 1001):
        bits = coins(n, 0.3, n)
        assert (unpack(pack(bits), n) == bits).all()
    with pytest.raises(ValueError, match="cannot hold 17"):
        unpack("mIA=", 17)


def test_the_share_of_the_commonest_answer_and_what_one_answer_gets() -> None:
    """Two sets of two classes: one answer to everything gets half of each. Shares are averaged over seeds, then over sets."""
    runs = [kept_run("x", seed, {"a": [1, 1, 1, 0], "b": [1, 0, 1, 0]}) for seed in (0, 1)]
    shares = iter([0.5, 0.75, 1.0, 0.25])
    counted = [
        run.model_copy(update={"results": [r.model_copy(update={"commonest": next(shares)}) for r in run.results]})
        for run in runs
    ]
    view = View(
        {"name": "p", "version": 1},
        "p",
        [Line("x", "x", counted), Line("y", "y", runs)],
        ["a", "b"],
        ["a", "b"],
        [],
        [],
        ["clean"],
    )
    assert view.commonest(view.lines[0], ["a", "b"]) == pytest.approx(((0.5 + 1.0) / 2 + (0.75 + 0.25) / 2) / 2)
    assert view.commonest(view.lines[1], ["a", "b"]) is None  # kept before it was counted
    assert view.chance(["a", "b"]) == 0.5
    section = accuracy_sections(view, "y", "k", BOTH)[0]
    assert section.tables[0].columns[-1] == "commonest answer"
    assert [row[-1] for row in section.tables[0].rows] == ["62.5", "", "100.0"]
    assert section.tables[0].rows[-1] == ["one answer to everything", "", "50.0", "100.0"]
    assert "right for 50.0 % of this average" in " ".join(section.text)
    assert "not shown to be more than what one answer" in " ".join(section.text)  # 62.5 % of 8 images


def test_an_average_needs_the_same_seeds_on_every_set() -> None:
    """Seed 1 failed on `a`, seed 0 on `b`: one result a set, but of two different models; nothing may be averaged or tested."""
    good, bad = [1, 1, 1, 0], [0, 0, 0, 1]
    crossed = Line("x", "x", [kept_run("x", 0, {"a": good}), kept_run("x", 1, {"b": good})])
    whole = Line("y", "y", [kept_run("y", 0, {"a": bad, "b": bad}), kept_run("y", 1, {"a": bad, "b": good})])
    view = View({"name": "p", "version": 1}, "p", [crossed, whole], ["a", "b"], ["a", "b"], [], [], ["clean"])
    number = view.average(whole, "clean")
    assert number is not None and number.by_seed == (0.25, 0.5) and number.value == 0.375
    assert view.average(crossed, "clean") is None
    assert view.pairs(crossed, whole, ["clean"], ["a", "b"]) is None and find_tests(view, "y", None, BOTH) == []
    assert view.pairs(crossed, whole, ["clean"], ["a"]) is not None and len(find_tests(view, "y", ["a", "b"], BOTH)) == 2
    cell = next(row for row in accuracy_sections(view, "y", "k", BOTH)[0].tables[0].rows if row[0] == "x")[2]
    assert cell == "missing: not every seed on every set"
