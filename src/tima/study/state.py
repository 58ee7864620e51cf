"""Where a study stands, read from its files alone: what is finished, what failed, and which settings each search chose.

Nothing is kept besides the runs' own files, so that a study which was killed at any moment goes on from what is whole. What was
finished on another machine may stand beside them (`known.py`); the folder's own files come before it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tima._files import write_json
from tima._reading import read_json_object
from tima.protocols import Protocol
from tima.results import result_path
from tima.study.expand import Training, finals, first_seeds, headline_seeds, trials
from tima.study.known import Known, read_known, trained_weights
from tima.study.records import KeptResult
from tima.study.schema import Study, parent

COLLAPSED = "collapsed"
MISSING = "missing"


@dataclass(frozen=True)
class Failure:
    """Why something was not finished. `kind`: the error's class, `missing` for a data set that is not on this machine."""

    kind: str
    message: str

    def __str__(self) -> str:
        return self.message.strip().splitlines()[0] if self.message.strip() else self.kind


@dataclass(frozen=True)
class Choice:
    """A search's outcome. `scores`: by trial, None for one that failed or collapsed; `val`: what they are made of, where that
    is known; `winner`: its number, None if all did."""

    points: list[Mapping[str, Any]]
    keys: list[str]
    scores: list[float | None]
    notes: list[str]
    val: list[dict[str, Any] | None]
    winner: int | None

    @property
    def settings(self) -> Mapping[str, Any]:
        return {} if self.winner is None else self.points[self.winner]


@dataclass
class State:
    """The study's folder. Finished files never change, so they are read once."""

    folder: Path
    _summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    _complete: set[Path] = field(default_factory=set)

    @cached_property
    def known(self) -> Known | None:
        """What was finished elsewhere."""
        return read_known(self.folder)

    def run(self, key: str) -> Path:
        return self.folder / "runs" / key

    def summary(self, key: str) -> dict[str, Any] | None:
        """What a finished training says of itself, here or elsewhere."""
        found = self.summary_here(key)
        return self.known.summary(key) if found is None and self.known is not None else found

    def summary_here(self, key: str) -> dict[str, Any] | None:
        """`summary.json` of a training that was finished in this folder: its weights are here, too.

        Raises:
            ResultError: it is there and cannot be read.
        """
        if key not in self._summaries:
            path = self.run(key) / "summary.json"
            if not path.is_file():
                return None
            self._summaries[key] = read_object(path)
        return self._summaries[key]

    def evaluated(self, key: str, data: str, protocol: Protocol) -> bool:
        """Is there a complete result, here or elsewhere?"""
        return self.evaluated_here(key, data, protocol) or self.known_result(key, data, protocol) is not None

    def evaluated_here(self, key: str, data: str, protocol: Protocol) -> bool:
        """Is there a complete result in this folder?"""
        path = self.result(key, data, protocol)
        if path not in self._complete and path.is_file() and read_object(path).get("complete"):
            self._complete.add(path)
        return path in self._complete

    def known_result(self, key: str, data: str, protocol: Protocol) -> KeptResult | None:
        """The result from elsewhere, if the run was not trained here since, or with the same weights as its outcome."""
        found = self.known.result(key, data, set_name(data), protocol.sha256) if self.known is not None else None
        if found is None or self.summary_here(key) is None or found.checkpoint_sha256 == trained_weights(self.run(key)):
            return found
        return None

    def result(self, key: str, data: str, protocol: Protocol) -> Path:
        return result_path(self.run(key), set_name(data), protocol)

    def failure(self, key: str, what: str) -> Failure | None:
        """Why `train`, or `evaluate.SET.PROTOCOL`, was not finished; None when nothing failed."""
        path = self._failed(key, what)
        if not path.is_file():
            return None
        value = read_object(path)
        return Failure(str(value.get("kind", "error")), str(value.get("message", "")))

    def fail(self, key: str, what: str, failure: Failure) -> None:
        write_json(self._failed(key, what), {"what": what, "kind": failure.kind, "message": failure.message})

    def forget_failures(self, everything: bool) -> None:
        """What failed is tried again: all of it, or only sets that were not on this machine."""
        for path in self.folder.glob("runs/*/failures/*.json"):
            if everything or read_object(path).get("kind") == MISSING:
                path.unlink()

    def _failed(self, key: str, what: str) -> Path:
        return self.run(key) / "failures" / f"{what}.json"


def evaluation_name(data: str, protocol: Protocol) -> str:
    """What a failure of this evaluation is filed under."""
    return f"evaluate.{result_path('', set_name(data), protocol).stem}"


def set_name(data: str) -> str:
    """What results call a set that was named by a folder: its last part, without a split."""
    return Path(data.split(":")[0]).name


def collapsed(summary: Mapping[str, Any]) -> bool:
    """The kept model gives one answer to everything on some validation set."""
    parts = [part for part in summary.get("val", {}).values() if isinstance(part, dict)]
    return any(p.get("one_class") and abs(p["clean_accuracy"] - p["robust_accuracy"]) < 1e-9 for p in parts)


def score(summary: Mapping[str, Any], rule: str) -> float:
    """What a search compares, see `Search.rule`."""
    parts = val_parts(summary).values()
    if rule == "balance":
        return math.sqrt(sum(p["clean_accuracy"] for p in parts) * sum(p["robust_accuracy"] for p in parts)) / len(parts)
    keys = ["robust_accuracy"] if rule == "robust" else ["clean_accuracy", "robust_accuracy"]
    return float(sum(part[key] for part in parts for key in keys) / (len(parts) * len(keys)))


def val_parts(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracies of a finished training by validation set; of a search that left one out there is none."""
    return {name: part for name, part in summary["val"].items() if isinstance(part, dict)}


def choose(study: Study, name: str, state: State) -> Choice | None:
    """The winner of a row's search; None while trials are open. A row that is not searched has no trials and no winner."""
    source = study.rows[name].search
    if source not in ("own", "none"):
        return choose(study, source, state)
    tried = trials(study, name)
    rule = study.search.rule if study.search is not None else "mean"
    scores: list[float | None] = []
    notes: list[str] = []
    vals: list[dict[str, Any] | None] = []
    for training in tried:
        summary, failed = state.summary(training.key), state.failure(training.key, "train")
        known = state.known.trial(training.key, rule) if summary is None and state.known is not None else None
        if known is not None:
            scores.append(known.score if known.note or not known.val else score({"val": known.val}, rule))
            notes.append(known.note)
            vals.append(known.val)
            continue
        if summary is None and failed is None:
            return None
        bad = str(failed) if summary is None else COLLAPSED if collapsed(summary) else ""
        scores.append(None if bad or summary is None else score(summary, rule))
        notes.append(bad)
        vals.append(None if summary is None else val_parts(summary))
    good = [i for i, value in enumerate(scores) if value is not None]
    winner = max(good, key=lambda i: (scores[i], -i), default=None)
    return Choice([dict(t.trial or {}) for t in tried], [t.key for t in tried], scores, notes, vals, winner)


def ready_finals(study: Study, name: str, state: State, seeds: list[int]) -> list[Training] | None:
    """The final runs of a row; None while its search is open; empty when no trial of it survived."""
    choice = choose(study, name, state)
    if choice is None:
        return None
    if choice.points and choice.winner is None:
        return []
    return finals(study, name, choice.settings, seeds)


def headline_rows(study: Study, state: State) -> list[str]:
    """The headline rows, with the best of the rest once all first runs of the others are there."""
    rows = list(study.headline.rows)
    if not study.headline.best_of_rest:
        return rows
    best: tuple[float, str] | None = None
    asked = study.headline.best_of_rest
    rule = asked if isinstance(asked, str) else study.search.rule if study.search is not None else "mean"
    kept = study.content()["rows"]
    for name in (n for n in study.rows if n not in rows and parent(n, kept) == n):
        first = ready_finals(study, name, state, first_seeds(study, name)[:1])
        if first is None or any(state.summary(t.key) is None and state.failure(t.key, "train") is None for t in first):
            return rows
        summary = state.summary(first[0].key) if first else None
        if summary is None or collapsed(summary):
            continue
        if best is None or score(summary, rule) > best[0]:
            best = score(summary, rule), name
    return rows if best is None else [*rows, best[1]]


def seeds_of(study: Study, name: str, headline: list[str]) -> list[int]:
    """The seeds that a row ends up with."""
    if name not in headline:
        return first_seeds(study, name)
    return list(dict.fromkeys([*first_seeds(study, name), *headline_seeds(study, name)]))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ResultError: not readable, or something else.
    """
    return read_json_object(path, "Delete it; what it held is made again.")
