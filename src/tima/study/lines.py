"""What is compared: lines (a row at one training eps and training set, all its seeds) x data sets x columns.

Everything comes from the kept records; nothing is measured again. Accuracies are fractions. Shapes: `S` seeds, `N` images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tima.report.comparison import CLEAN, size_text
from tima.stats import macro_average, wilson
from tima.study.records import KeptResult, KeptRun, Store
from tima.study.state import set_name


@dataclass(frozen=True)
class Number:
    """A mean over seeds with its 95 % interval over images, and each seed's own value."""

    value: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    n: int

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None with one."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Line:
    """All runs of a row at one training eps and training set."""

    row: str
    name: str
    runs: list[KeptRun]

    def results(self, data: str, protocol: str) -> list[KeptResult]:
        """One for each seed that has been judged, in the order of the seeds."""
        found = [r for run in self.runs for r in run.results if r.data == data and r.protocol == protocol]
        return found


@dataclass(frozen=True)
class View:
    """One protocol: every line that was judged by it, on every set.

    Attributes:
        zero_shot: sets that averages are taken over: no line was trained on them, and some line has a result.
        missing: sets of which nobody has a result.
        absent: (row, why) of those that have none under this protocol, though they should.
    """

    protocol: dict[str, Any]
    sha256: str
    lines: list[Line]
    data: list[str]
    zero_shot: list[str]
    missing: list[str]
    absent: list[tuple[str, str]]
    columns: list[str] = field(default_factory=list)

    @cached_property
    def label(self) -> str:
        return f"{self.protocol['name']}@{self.protocol['version']}"

    def seeds(self, line: Line, data: str) -> tuple[int, ...]:
        """Of the line's runs that were judged on this set."""
        return tuple(run.seed for run in line.runs for r in run.results if r.data == data and r.protocol == self.sha256)

    def whole(self, line: Line, sets: Sequence[str]) -> bool:
        """Whether the very same seeds were judged on each of these sets."""
        return len({self.seeds(line, data) for data in sets}) == 1

    def right(self, line: Line, data: str, column: str) -> np.ndarray | None:
        """Outcomes `S x N`; None where a line has no result or its seeds saw different images."""
        results = line.results(data, self.sha256)
        if not results or len({r.images_sha256 for r in results}) > 1 or any(column not in r.right for r in results):
            return None
        return np.stack([r.outcomes(column) for r in results])

    def number(self, line: Line, data: str, column: str) -> Number | None:
        """Accuracy on one set. The interval is Wilson's at the mean count: more seeds make images no more."""
        right_SN = self.right(line, data, column)
        if right_SN is None:
            return None
        by_seed = right_SN.mean(1)
        n = right_SN.shape[1]
        low, high = wilson(float(by_seed.mean()) * n, n)
        return Number(float(by_seed.mean()), low, high, tuple(map(float, by_seed)), n)

    def average(self, line: Line, column: str) -> Number | None:
        """Macro average over the zero-shot sets; None where one of them, or a seed on one of them, is missing: a mean over
        other sets would mislead.
        """
        found = [self.right(line, data, column) for data in self.zero_shot]
        sets = [f for f in found if f is not None]
        if not sets or len(sets) < len(found) or not self.whole(line, self.zero_shot):
            return None
        counts = [(float(f.mean(1).mean()) * f.shape[1], f.shape[1]) for f in sets]
        value, low, high = macro_average(counts)
        by_seed = np.mean([f.mean(1) for f in sets], axis=0)
        return Number(value, low, high, tuple(map(float, by_seed)), sum(f.shape[1] for f in sets))

    def commonest(self, line: Line, sets: Sequence[str]) -> float | None:
        """Mean over `sets` and seeds of the share of images that get the answer given most often, without an attack."""
        shares = [[result.commonest for result in line.results(name, self.sha256)] for name in sets]
        known = [[share for share in of_set if share is not None] for of_set in shares]
        if not all(shares) or known != shares:
            return None  # a set not judged, or a file kept before shares were counted
        return float(np.mean([np.mean(of_set) for of_set in known]))

    def chance(self, sets: Sequence[str]) -> float | None:
        """Mean over `sets` of 1 / classes: what one answer to every image gets, which no attack can change."""
        classes = {
            r.data: r.classes for line in self.lines for run in line.runs for r in run.results if r.protocol == self.sha256
        }
        return sum(1 / classes[name] for name in sets) / len(sets) if sets else None

    def pairs(
        self, first: Line, second: Line, columns: Sequence[str], sets: Sequence[str]
    ) -> list[tuple[np.ndarray, np.ndarray]] | None:
        """Outcomes of both on each set, several columns side by side; None unless they judged the same images everywhere,
        each with the same seeds on every set.
        """
        from tima.study.compare import mean_over_columns

        if not (self.whole(first, sets) and self.whole(second, sets)):
            return None
        found = []
        for data in sets:
            hashes = {r.images_sha256 for line in (first, second) for r in line.results(data, self.sha256)}
            sides = [[self.right(line, data, column) for column in columns] for line in (first, second)]
            if len(hashes) != 1 or any(part is None for side in sides for part in side):
                return None
            a, b = (mean_over_columns([part for part in side if part is not None]) for side in sides)
            found.append((a, b))
        return found or None


def lines_of(store: Store) -> list[Line]:
    """In the order of the file; a row at several training eps or on several training sets is several lines."""
    found: dict[tuple[str, str, str], list[KeptRun]] = {}
    for run in sorted(store.runs, key=lambda run: run.seed):
        found.setdefault((run.row, run.eps, run.data), []).append(run)
    rows = list(store.study["rows"])
    lines = []
    for row in rows:
        mine = {key: runs for key, runs in found.items() if key[0] == row}
        title = store.study["rows"][row].get("title") or row
        eps, data = {key[1] for key in mine}, {key[2] for key in mine}
        for (_, one_eps, one_data), runs in mine.items():
            about = [f"trained at {one_eps}"] * (len(eps) > 1) + [f"on {set_name(one_data)}"] * (len(data) > 1)
            lines.append(Line(row, f"{title} ({', '.join(about)})" if about else title, runs))
    return lines


def views_of(store: Store) -> list[View]:
    """One for each protocol of the study, in the order of the file."""
    lines = lines_of(store)
    wanted: dict[str, list[str]] = {sha: [] for sha in store.protocols}
    for run in store.runs:
        for result in run.results:
            wanted.setdefault(result.protocol, []).append(result.data)
    views = []
    for sha, protocol in store.protocols.items():
        asked = store.asked.get(sha, [])
        have = set(wanted[sha])
        judged = [line for line in lines if any(line.results(data, sha) for data in have)]
        trained_on = {r.data for line in judged for run in line.runs for r in run.results if r.train_domain}
        data = [name for name in asked if name in have]
        columns = [CLEAN, *(size_text(_eps(e), str(protocol.get("norm", "l_inf"))) for e in protocol["eps"])]
        zero_shot = [name for name in data if name not in trained_on]
        missing = [name for name in asked if name not in have]
        absent = _absent(store, sha, judged)
        views.append(View(protocol, sha, judged, data, zero_shot, missing, absent, columns))
    return views


def _absent(store: Store, sha: str, judged: Sequence[Line]) -> list[tuple[str, str]]:
    found = []
    for name in store.headline if sha in store.headline_only else store.study["rows"]:
        if any(line.row == name for line in judged):
            continue
        states = {run.state for run in store.runs if run.row == name}
        search = store.searches.get(name)
        if not states:
            why = "every trial of its search failed" if search is not None and search.winner is None else "not begun"
        else:
            why = "training failed" if states == {"failed"} else "not judged yet"
        found.append((str(store.study["rows"][name].get("title") or name), why))
    return found


def _eps(text: str) -> float:
    from fractions import Fraction

    return float(Fraction(text))
