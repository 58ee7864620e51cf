"""What each method withstands at no less clean accuracy than a given row keeps: fair where each trades one for the other.

Two models that take turns by a coin have clean and robust accuracies in between. So a method that was measured at several
points (settings of one row, mixtures with the original) can be had at any clean accuracy between two of them, and none needs to
have been tuned to hit that of another. Two ends are everybody's: the original, and one answer to everything. Mixed weights may
lie above the line between two points, and count where they were measured.

Shapes: `S` seeds, `N` images, `P` points of a method, `R` resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tima.study.lines import Line, View
from tima.study.records import CLEAN
from tima.study.schema import parent

RESAMPLES = 2000
ORIGINAL = "zero-shot"


@dataclass(frozen=True)
class Gap:
    """A row's robust accuracy minus another method's at no less clean accuracy, with its 95 % interval over images."""

    value: float
    low: float
    high: float


def families(view: View, rows: Mapping[str, Any]) -> dict[str, list[Line]]:
    """Name -> the lines of a row and of those that are this row in another setting, trained at the same eps on the same set."""
    found: dict[tuple[str, str, str], list[Line]] = {}
    for line in view.lines:
        found.setdefault((parent(line.row, rows), line.runs[0].eps, line.runs[0].data), []).append(line)
    return {lines[0].name: lines for lines in found.values()}


def level(clean_PR: np.ndarray, robust_PR: np.ndarray, at_R: np.ndarray) -> np.ndarray:
    """The most robust that points, or coins between two of them, are at no less clean accuracy than `at_R`; -inf: none is.

    Args:
        clean_PR, robust_PR: accuracies of the points, in each resample.
    """
    best_R = np.where(clean_PR >= at_R, robust_PR, -np.inf).max(0)
    for p in range(len(clean_PR)):
        for q in range(len(clean_PR)):
            between_R = (clean_PR[p] >= at_R) & (clean_PR[q] < at_R) & (robust_PR[q] > robust_PR[p])
            gained_R = np.where(between_R, clean_PR[p] - clean_PR[q], 1.0)
            share_R = (clean_PR[p] - at_R) / gained_R  # how often q answers
            coin_R = robust_PR[p] + share_R * (robust_PR[q] - robust_PR[p])
            best_R = np.where(between_R, np.maximum(best_R, coin_R), best_R)
    return best_R


def gaps(view: View, line: Line, points: Sequence[Line], columns: Sequence[str], seed: int = 0) -> list[Gap] | None:
    """`line` minus the best that `points` and one answer to everything are at its clean accuracy, a gap a column.

    Images are resampled within each set, the same for all lines, and everything is worked out anew in each resample: which
    points, which coin. None unless all judged the same images of every set.
    """
    drawn = _resampled(view, [line, *points], [CLEAN, *columns], seed)
    chance = view.chance(view.zero_shot)
    if drawn is None or chance is None:
        return None
    value_LCR = np.concatenate([drawn, np.full((1, *drawn.shape[1:]), chance)])
    found = []
    for i in range(1, len(columns) + 1):
        best_R = level(value_LCR[1:, 0], value_LCR[1:, i], value_LCR[0, 0])
        gap_R = value_LCR[0, i] - best_R
        low, high = np.quantile(gap_R[1:], [0.025, 0.975], method="nearest")
        found.append(Gap(float(gap_R[0]), float(low), float(high)))
    return found


def _resampled(view: View, lines: Sequence[Line], columns: Sequence[str], seed: int) -> np.ndarray | None:
    """Average over the zero-shot sets of each line at each column: as measured, then in each resample, `L x C x (1 + R)`."""
    rng = np.random.default_rng(seed)
    total = np.zeros((len(lines), len(columns), 1 + RESAMPLES))
    for data in view.zero_shot:
        right = [[view.right(line, data, column) for column in columns] for line in lines]
        hashes = {r.images_sha256 for line in lines for r in line.results(data, view.sha256)}
        if len(hashes) != 1 or any(part is None for row in right for part in row):
            return None
        share_LCN = np.array([[part.mean(0) for part in row if part is not None] for row in right])
        n = share_LCN.shape[-1]
        count_RN = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)])
        total += share_LCN @ count_RN.T / n
    return total / len(view.zero_shot)
