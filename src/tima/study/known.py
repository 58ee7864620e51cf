"""What was finished elsewhere: kept files, put into the folder of a study, count as if it had been done here.

A kept file (`records.py`) has every search's scores and every run's outcomes, and no weights. So trials are never repeated, and
a run is trained again only where something is to be judged that the files lack. Outcomes of weights that a new training did not
bring back bit for bit (another processor may round otherwise) are not taken for those of the new ones: they are judged again.

A run belongs to its settings and not to a study, so a kept file of one study serves another that has some of its runs. Models
and sets are told apart by what they were called, as in settings everywhere: a name must mean the same on both machines.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tima._files import sha256_json, write_json
from tima._reading import read_json_object
from tima.errors import ResultError
from tima.study.records import KeptResult, KeptRun, Store, read_store, write_store

FOLDER = "known"
BEFORE = "known.json"  # where the one file was that a study could go on from
DONE = ("finished", "collapsed")


class KnownTrial(NamedTuple):
    """One trial of a search. `score`: by `rule`, None if it failed or collapsed, of which `note` says why; `val`: what the
    score is made of, where the file has it."""

    score: float | None
    note: str
    val: dict[str, Any] | None
    rule: str


@dataclass(frozen=True)
class Known:
    """Kept files. What is in several is taken from the one that has most of it."""

    stores: Sequence[Store]

    @cached_property
    def _trials(self) -> dict[str, list[KnownTrial]]:
        """By key, those that failed last: another machine's trouble counts where nothing else is known."""
        found: dict[str, list[KnownTrial]] = {}
        for store in self.stores:
            rule = str((store.study.get("search") or {}).get("rule", "mean"))
            for s in store.searches.values():
                for key, score, note, val in zip(s.keys, s.scores, s.notes, s.val or [None] * len(s.keys), strict=True):
                    found.setdefault(key, []).append(KnownTrial(score, note, val, rule))
        return {key: sorted(several, key=lambda trial: (trial.score is None, not trial.val)) for key, several in found.items()}

    def trial(self, key: str, rule: str) -> KnownTrial | None:
        """A trial, if a file says how it does by this rule."""
        return next((t for t in self._trials.get(key, []) if t.score is None or t.val or t.rule == rule), None)

    @cached_property
    def runs(self) -> dict[str, tuple[KeptRun, Store]]:
        """Key -> the run and its file; a run is never put together from several, whose weights may differ."""
        found: dict[str, tuple[KeptRun, Store]] = {}
        for store in self.stores:
            for run in store.runs:
                if run.state in DONE and (run.key not in found or len(run.results) > len(found[run.key][0].results)):
                    found[run.key] = run, store
        return found

    def run(self, key: str) -> KeptRun | None:
        """A finished run. `taken_from` names its study."""
        if key not in self.runs:
            return None
        run, store = self.runs[key]
        return run.model_copy(update={"taken_from": run.taken_from or str(store.study.get("name", ""))})

    def summary(self, key: str) -> dict[str, Any] | None:
        return self.runs[key][0].summary if key in self.runs else None

    def result(self, key: str, asked: str, name: str, protocol: str) -> KeptResult | None:
        """The outcome of a run on a set under the protocol of that hash.

        Args:
            asked: what a study file calls the set; the kept study must have called it the same, or `cifar10:train` could pass
                for `cifar10`.
            name: what results call it.
        """
        run, store = self.runs.get(key, (None, None))
        if run is None or store is None or asked not in set(_asked(store)):
            return None
        return next((r for r in run.results if r.data == name and r.protocol == protocol), None)


def _asked(store: Store) -> Iterator[str]:
    for evaluation in store.study.get("evaluate", []):
        yield from evaluation.get("data", [])


def read_known(folder: Path) -> Known | None:
    """What `adopt` put there.

    Raises:
        ResultError: it cannot be read.
    """
    paths = [path for path in (folder / BEFORE, *sorted((folder / FOLDER).glob("*.json"))) if path.is_file()]
    return Known([read_store(path) for path in paths]) if paths else None


def adopt(folder: str | Path, path: str | Path) -> list[Path]:
    """Let the study in `folder` go on from a kept file, or from all in a folder. What the study's folder holds comes first.

    Returns:
        The kept files.

    Raises:
        ResultError: a file cannot be read, or the folder has none.
    """
    path = Path(path)
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not paths:
        raise ResultError(f"{path} holds no kept file, NAME.json. tima study writes them to the folder of --store.")
    for store in [read_store(p) for p in paths]:  # all are read before one is written
        digest = sha256_json(json.loads(store.model_dump_json()))[:8]
        write_store(Path(folder) / FOLDER / f"{store.study.get('name', 'study')}-{digest}.json", store)
    return paths


def trained_weights(run: Path) -> str:
    """The hash of a finished run's weights, as results have it; worked out once."""
    path = run / "weights.json"
    if path.is_file():
        return str(read_json_object(path, "Delete it; it is made again.").get("sha256"))
    from tima.evaluation.subject import weights_sha256
    from tima.models import load_model

    found = weights_sha256(load_model(run))
    write_json(path, {"sha256": found})
    return found
