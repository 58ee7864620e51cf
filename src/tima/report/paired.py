"""Which differences between two runs are more than chance: the same images, the same protocol, image by image.

The outcomes come from the sidecars (`index_N`, `label_N`, `correct_N`, `robust_EN`). Runs are compared on a data set only if
both judged exactly the same images; nothing else is. All p-values of one protocol are one family for Holm's correction.
Shapes: `N` images, `E` eps.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tima.errors import ResultError
from tima.report.comparison import Block, Comparison, protocol_key, size_text
from tima.report.runs import Run, Stored
from tima.stats import holm, mcnemar, stratified_bootstrap, stratified_swap_test

if TYPE_CHECKING:
    import numpy.typing as npt

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """`first`'s accuracy minus `second`'s as a fraction, with its 95 % bootstrap interval and p-values."""

    data: str
    first: str
    second: str
    eps: float
    column: str
    difference: float
    low: float
    high: float
    p: float
    n: int
    average: bool = False
    p_holm: float = 1.0

    @property
    def significant(self) -> bool:
        return self.p_holm < LEVEL


@dataclass(frozen=True)
class Paired:
    """Every difference of one protocol, and in words what could not be compared."""

    differences: list[Difference]
    skipped: list[str]


@dataclass(frozen=True)
class Outcomes:
    """What one run made of the images of one set; `right` by column name."""

    index_N: "npt.NDArray[np.int64]"
    label_N: "npt.NDArray[np.int64]"
    right: "dict[str, npt.NDArray[np.bool_]]"
    asked: tuple[object, ...]


def paired(comparison: Comparison) -> Paired:
    """All pairs of runs on all data sets and averages of `comparison`."""
    found = {
        (run.name, block.title): _outcomes(run, block.title, comparison)
        for run in comparison.runs
        for block in comparison.data_sets
    }
    differences, skipped = [], []
    for first, second in combinations(comparison.runs, 2):
        why_not = {}
        for block in comparison.data_sets:
            a, b = found[first.name, block.title], found[second.name, block.title]
            why = _incomparable(a, b)
            if why:
                why_not[block.title] = why
                continue
            assert isinstance(a, Outcomes) and isinstance(b, Outcomes)
            differences += _of_block(comparison, block, first, second, [(a, b)])
        skipped += [f"{first.name} and {second.name} on {data}: {why}" for data, why in why_not.items()]
        for block in comparison.averages:
            if not any(data in why_not for data in block.average_of):
                sets = [(found[first.name, data], found[second.name, data]) for data in block.average_of]
                differences += _of_block(comparison, block, first, second, sets)  # type: ignore[arg-type]
    adjusted = holm([d.p for d in differences])
    return Paired([replace(d, p_holm=p) for d, p in zip(differences, adjusted, strict=True)], skipped)


def _of_block(
    comparison: Comparison, block: Block, first: Run, second: Run, sets: list[tuple[Outcomes, Outcomes]]
) -> list[Difference]:
    differences = []
    for eps, column in zip([0.0, *comparison.eps], comparison.columns, strict=True):
        if not all(column in a.right and column in b.right for a, b in sets):
            continue  # unfinished
        pairs = [(a.right[column], b.right[column]) for a, b in sets]
        middle, low, high = stratified_bootstrap(pairs)
        p = stratified_swap_test(pairs) if block.average_of else mcnemar(*pairs[0])
        n = sum(len(a) for a, _ in pairs)
        differences.append(
            Difference(
                block.title, first.name, second.name, eps, column, middle, low, high, p, n, average=bool(block.average_of)
            )
        )
    return differences


def _incomparable(a: Outcomes | str, b: Outcomes | str) -> str:
    """Why two runs cannot be compared image by image; empty when they can."""
    if isinstance(a, str) or isinstance(b, str):
        return a if isinstance(a, str) else str(b)
    if not np.array_equal(a.index_N, b.index_N) or not np.array_equal(a.label_N, b.label_N):
        return "they judged different images"
    return "they were asked with other class names or prompts" if a.asked != b.asked else ""


def _outcomes(run: Run, data: str, comparison: Comparison) -> Outcomes | str:
    """The run's outcomes on a set, in the order of the images; text: why there are none."""
    key = protocol_key(comparison.protocol)
    matching = (s for s in run.results if s.record.dataset == data and protocol_key(s.record.protocol) == key)
    stored = next(matching, None)
    if stored is None:
        return f"{run.name} has no result"
    try:
        return _read(stored)
    except (ResultError, KeyError) as error:
        reason = "lacks a tensor" if isinstance(error, KeyError) else "is missing or damaged"
        return f"the file of image outcomes of {run.name} {reason}"


def _read(stored: Stored) -> Outcomes:
    from tima.results import load_sidecar

    tensors = load_sidecar(stored.path)
    order = tensors["index_N"].argsort()
    rows = [("clean", tensors["correct_N"])]
    rows += [
        (size_text(row.eps, stored.record.norm), tensors["robust_EN"][step]) for step, row in enumerate(stored.record.robust)
    ]
    right = {name: row[order].bool().numpy() for name, row in rows}
    return Outcomes(
        tensors["index_N"][order].numpy(),
        tensors["label_N"][order].numpy(),
        right,
        (*stored.record.class_names, None, *stored.record.templates),
    )
