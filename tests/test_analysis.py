"""Calibration, margins and their correlation against slow formulas and values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from tima.analysis import (
    EDGES,
    calibration_error,
    correct_per_class,
    margin_histogram,
    margin_offset,
    margin_similarity,
    nearest_similarity,
)
from tima.errors import ResultError


def slow_calibration(confidence: list[float], right: list[bool], bins: int) -> float:
    """Guo et al. 2017, equations 1 to 3, bin by bin."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


@pytest.mark.parametrize("bins", [1, 4, 15])
def test_calibration_is_the_papers(bins: int) -> None:
    rng = np.random.default_rng(bins)
    confidence = [*rng.uniform(0, 1, 300).tolist(), 0.0, 0.25, 0.5, 1.0, 1.0]  # edges belong to the bin below them
    right = [bool(r) for r in rng.uniform(size=len(confidence)) < np.array(confidence) ** 2]
    expected = slow_calibration(confidence, right, bins)
    assert calibration_error(confidence, right, bins) == pytest.approx(expected, abs=1e-12)
    assert calibration_error(torch.tensor(confidence, dtype=torch.float64), torch.tensor(right), bins) == pytest.approx(
        expected
    )


def test_calibration_by_hand() -> None:
    # two bins: {0.4 wrong, 0.5 right} -> |0.5 - 0.45|, {0.9 right, 0.9 wrong} -> |0.5 - 0.9|; each half of the images
    assert calibration_error([0.4, 0.5, 0.9, 0.9], [False, True, True, False], bins=2) == pytest.approx(0.225)
    assert calibration_error([1.0, 1.0], [True, True]) == 0
    assert calibration_error([1.0 + 1e-7], [False]) == pytest.approx(1)  # fp32 softmax rounds above 1
    assert calibration_error([], []) == 0


def test_calibration_takes_bf16_and_tensors_with_gradient() -> None:
    confidence = torch.tensor([0.75, 0.25], dtype=torch.bfloat16, requires_grad=True)
    assert calibration_error(confidence, torch.tensor([True, False])) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("confidence", "right", "bins", "says"),
    [
        ([0.5], [True, False], 15, "shapes"),
        ([1.2], [True], 15, "softmax shares"),
        ([math.nan], [True], 15, "NaN"),
        ([0.5], [True], 0, "at least one bin"),
        ([[0.5]], [[True]], 15, "one number an image"),
    ],
)
def test_calibration_refuses(confidence: object, right: object, bins: int, says: str) -> None:
    with pytest.raises(ResultError, match=says):
        calibration_error(confidence, right, bins)


def test_histogram_counts_every_image() -> None:
    margin = [-100.0, -32.0, -0.25, 0.0, 0.49, 0.5, 31.9, 32.0, 1e6]
    found = margin_histogram(margin)
    slow = [0] * (len(EDGES) - 1)
    for value in margin:
        place = math.floor((value + 32) / 0.5)
        slow[min(max(place, 0), len(slow) - 1)] += 1
    assert found.counts == slow and sum(found.counts) == len(margin)
    assert found.counts[64] == 2  # 0 and 0.49 are right answers: zero is an edge
    assert found.edges[0] == -found.edges[-1] and found.edges[64] == 0
    assert found.mean == pytest.approx(sum(margin) / 9) and found.median == 0.49
    assert margin_histogram(torch.tensor(margin)).counts == slow


def test_histogram_refuses_nothing_and_nan() -> None:
    with pytest.raises(ResultError, match="no margins"):
        margin_histogram([])
    with pytest.raises(ResultError, match="NaN"):
        margin_histogram([1.0, math.nan])


def test_similarity_is_pearsons() -> None:
    rng = np.random.default_rng(3)
    text, label = rng.normal(size=(5, 8)), rng.integers(0, 5, 60)
    margin = rng.normal(size=60)
    nearest = []
    for i in range(5):
        others = [text[i] @ text[j] / math.sqrt((text[i] @ text[i]) * (text[j] @ text[j])) for j in range(5) if j != i]
        nearest.append(max(others))
    expected = np.corrcoef([nearest[k] for k in label], margin)[0, 1]
    assert margin_similarity(margin, label, text) == pytest.approx(expected, abs=1e-12)
    # cosine: the length of a text does not matter
    assert margin_similarity(margin, label, text * rng.uniform(1, 9, (5, 1))) == pytest.approx(expected, abs=1e-12)
    tensors = torch.tensor(margin), torch.tensor(label), torch.tensor(text)
    assert margin_similarity(*tensors) == pytest.approx(expected, abs=1e-12)


def test_similarity_has_the_sign_of_the_paper() -> None:
    """Two close texts with small margins, one apart with a large margin: a perfect negative correlation."""
    text = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]
    assert margin_similarity([1.0, 1.0, 5.0], [0, 1, 2], text) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("margin", "label", "text"),
    [
        ([1.0], [0], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),  # one image
        ([], [], [[1.0, 0.0], [0.0, 1.0]]),
        ([1.0, 2.0], [0, 0], [[1.0, 0.0]]),  # one class
        ([1.0, 2.0], [0, 1], [[1.0, 0.0], [0.0, 1.0]]),  # two classes are each other's nearest: one cosine
        ([1.5, 1.5, 1.5], [0, 1, 2], [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]),  # one margin
        ([1.0, 2.0], [1, 1], [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]),  # images of one class
    ],
)
def test_similarity_is_undefined(margin: list[float], label: list[int], text: list[list[float]]) -> None:
    assert margin_similarity(margin, label, text) is None


def test_similarity_refuses_a_label_without_class_and_a_zero_text() -> None:
    with pytest.raises(ResultError, match="2 class texts"):
        margin_similarity([1.0, 2.0], [0, 2], [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ResultError, match="zero"):
        margin_similarity([1.0, 2.0], [0, 1], [[1.0, 0.0], [0.0, 0.0]])


def test_offset_by_hand() -> None:
    found = margin_offset([3.0, 5.0, 1.0], [1.0, 2.0, -3.0])  # 2, 3, 4
    assert found is not None
    assert found.mean == pytest.approx(3) and found.deviation == pytest.approx(1) and found.n == 3
    assert margin_offset([1.0], [0.0]) is None
    with pytest.raises(ResultError, match="shapes"):
        margin_offset([1.0, 2.0], [1.0])


def test_correct_per_class_counts() -> None:
    assert correct_per_class([True, False, True, True], [2, 0, 2, 1], 4) == [0, 1, 2, 0]
    assert correct_per_class(torch.tensor([True, True]), torch.tensor([1, 1]), 2) == [0, 2]
    assert correct_per_class([], [], 2) == [0, 0]
    with pytest.raises(ResultError, match="2 classes"):
        correct_per_class([True], [2], 2)


def test_nearest_texts_in_blocks_and_for_some_classes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a matrix of all pairs, and the same as with one."""
    text_CD = np.random.default_rng(0).normal(size=(37, 5))
    unit_CD = text_CD / np.linalg.norm(text_CD, axis=1, keepdims=True)
    expected_C = (unit_CD @ unit_CD.T - 3 * np.eye(37)).max(axis=1)
    assert nearest_similarity(text_CD) == pytest.approx(expected_C)
    monkeypatch.setattr("tima.analysis.ROWS_OF", 37 * 4)  # blocks of four rows, the last of one
    assert nearest_similarity(text_CD) == pytest.approx(expected_C)
    assert nearest_similarity(text_CD, [30, 2, 11, 7, 19]) == pytest.approx(expected_C[[30, 2, 11, 7, 19]])
