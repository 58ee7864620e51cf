"""What per-image outcomes say beyond accuracy: calibration, logit margins, and how margins go with class texts.

A margin is the label's logit minus the largest other one, in units of logits: positive where the answer is right. Everything
is computed in float64. Shapes: `N` images, `C` classes, `D` embedding width.
"""

from typing import Any, NamedTuple

import numpy as np

from tima._result_records import Margins
from tima.errors import ResultError

EDGES = np.linspace(-32.0, 32.0, 129)  # half a logit wide and the same for every model, so that histograms compare
ROWS_OF = 2**20  # entries of a block of cosines: 8 MB


class Offset(NamedTuple):
    """Differences of two margins of the same `n` images, in units of logits: their mean and sample standard deviation."""

    mean: float
    deviation: float
    n: int


def calibration_error(confidence_N: Any, right_N: Any, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., ICML 2017, arXiv 1706.04599, eq. 3) over equal-width bins `((m-1)/M, m/M]`.

    Args:
        confidence_N: the largest softmax share of each image, in [0, 1].
        right_N: whether each answer is right.
        bins: M.

    Returns:
        Mean over images of their bin's |accuracy - confidence|, in [0, 1]; 0 without images.

    Raises:
        ResultError: lengths that differ, confidences outside [0, 1], no bins.
    """
    confidence, right = _vector(confidence_N, "confidences"), _vector(right_N, "outcomes")
    _same_length(confidence, right)
    if bins < 1:
        raise ResultError(f"Calibration needs at least one bin, not {bins}.")
    # softmax in fp32 may exceed 1 by a rounding error; more than that is no share
    if len(confidence) and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-5):
        raise ResultError("Confidences are softmax shares in [0, 1]; these are not.")
    if len(confidence) == 0:
        return 0.0
    bin_N = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap_M = np.bincount(bin_N, weights=right - confidence, minlength=bins)  # images in the bin x (accuracy - confidence)
    return min(1.0, float(np.abs(gap_M).sum() / len(confidence)))


def margin_histogram(margin_N: Any) -> Margins:
    """Counts over `EDGES`. What lies beyond the outer edges is counted in the outermost bins, so that none is lost.

    Raises:
        ResultError: no images, or margins that are not finite.
    """
    margin = _vector(margin_N, "margins")
    if len(margin) == 0:
        raise ResultError("There are no margins to count.")
    counts, _ = np.histogram(np.clip(margin, EDGES[0], EDGES[-1]), EDGES)
    return Margins(
        mean=float(margin.mean()), median=float(np.median(margin)), edges=EDGES.tolist(), counts=[int(c) for c in counts]
    )


def nearest_similarity(text_CD: Any, class_M: Any = None) -> np.ndarray:
    """For each class the cosine of its text with the nearest other class text, in [-1, 1]: a (C,) array.

    Args:
        class_M: only for these classes: an (M,) array, without the work of the others. The memory is that of some rows.

    Raises:
        ResultError: fewer than two classes, or a text embedding of length 0 or not finite.
    """
    text = np.asarray(_cpu(text_CD), dtype=np.float64)
    if text.ndim != 2 or len(text) < 2:
        raise ResultError(f"The nearest other class text needs at least two class texts; these have shape {text.shape}.")
    length_C1 = np.linalg.norm(text, axis=1, keepdims=True)
    if not (np.isfinite(length_C1).all() and length_C1.min() > 0):
        raise ResultError("A class text embedding is zero or not finite. Look at the text tower.")
    unit_CD = text / length_C1
    class_M = np.arange(len(unit_CD)) if class_M is None else np.asarray(class_M)
    nearest_M = np.empty(len(class_M))
    rows = max(1, ROWS_OF // len(unit_CD))
    for start in range(0, len(class_M), rows):
        class_R = class_M[start : start + rows]
        cosine_RC = unit_CD[class_R] @ unit_CD.T
        cosine_RC[np.arange(len(class_R)), class_R] = -np.inf
        nearest_M[start : start + rows] = cosine_RC.max(axis=1)
    return nearest_M.clip(-1, 1)


def margin_similarity(margin_N: Any, label_N: Any, text_CD: Any) -> float | None:
    """Pearson's correlation of an image's margin with its class text's cosine to the nearest other class text.

    TIMA (AAAI version) argues from it: classes whose texts lie close together keep smaller margins, so the value is negative.

    Returns:
        In [-1, 1]; None where it is undefined: fewer than two images or classes, or all margins or all cosines equal.

    Raises:
        ResultError: lengths that differ, labels without a class, values that are not finite.
    """
    margin, label = _vector(margin_N, "margins"), np.asarray(_cpu(label_N)).astype(int)
    _same_length(margin, label)
    classes = len(text_CD)
    if len(label) and not 0 <= label.min() <= label.max() < classes:
        raise ResultError(f"Labels reach from {label.min()} to {label.max()}, but there are {classes} class texts.")
    if len(margin) < 2 or classes < 2:
        return None
    present_M, place_N = np.unique(label, return_inverse=True)
    x, y = nearest_similarity(text_CD, present_M)[place_N], margin
    # a spread of rounding errors is no spread
    if np.ptp(x) <= 1e-9 or np.ptp(y) <= 1e-9 * max(1.0, float(np.abs(y).max())):
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def margin_offset(small_N: Any, large_N: Any) -> Offset | None:
    """By how much margins fall from a small eps to a large one, image by image: margin at `small` minus margin at `large`.

    TIMA (AAAI version) observes that this offset is stable: its deviation is small against its mean. Pass images that were
    attacked at both sizes; one broken at the small eps keeps its margin, and would count as an offset of 0.

    Returns:
        None below two images.

    Raises:
        ResultError: lengths that differ, or margins that are not finite.
    """
    small, large = _vector(small_N, "margins"), _vector(large_N, "margins")
    _same_length(small, large)
    if len(small) < 2:
        return None
    difference = small - large
    return Offset(float(difference.mean()), float(difference.std(ddof=1)), len(difference))


def correct_per_class(right_N: Any, label_N: Any, classes: int) -> list[int]:
    """How many images of each class are right, in the order of the classes.

    Raises:
        ResultError: lengths that differ, or labels without a class.
    """
    right, label = np.asarray(_cpu(right_N)).astype(bool), np.asarray(_cpu(label_N)).astype(int)
    _same_length(right, label)
    if len(label) and not 0 <= label.min() <= label.max() < classes:
        raise ResultError(f"Labels reach from {label.min()} to {label.max()}, but there are {classes} classes.")
    return [int(count) for count in np.bincount(label[right], minlength=classes)]


def _cpu(values: Any) -> Any:
    """NumPy reads no tensor of another device, one that tracks gradients, or bf16."""
    return values.detach().cpu().double().numpy() if hasattr(values, "detach") else values


def _vector(values: Any, what: str) -> np.ndarray:
    array = np.asarray(_cpu(values), dtype=np.float64)
    if array.ndim != 1:
        raise ResultError(f"The {what} are one number an image; these have shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ResultError(f"Some {what} are NaN or infinite.")
    return array


def _same_length(a_N: np.ndarray, b_N: np.ndarray) -> None:
    if a_N.shape != b_N.shape:
        raise ResultError(f"One number an image is needed of each; these have shapes {a_N.shape} and {b_N.shape}.")
