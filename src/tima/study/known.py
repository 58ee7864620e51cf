"""What was finished elsewhere: kept files, put into the folder of a study, count as if it had been done here.

A kept file (`records.py`) has every search's scores and every run's outcomes, and no weights. So trials are never repeated, and
a run is trained again only where something is to be judged that the files lack. Outcomes of weights that a new training did not
bring back bit for bit (another processor may round otherwise) are not taken for those of the new ones: they are judged again.

A run belongs to its settings and not to a study, so a kept file of one study serves another that has some of its runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tima._files import write_json
from tima._reading import read_json_object
from tima.errors import ResultError
from tima.study.records import KeptResult, KeptRun, Store, read_store, write_store

FOLDER = "known"
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
    """Kept files by the keys of their trials and runs; where several have the same, the first."""

    stores: Sequence[Store]

    @cached_property
    def trials(self) -> dict[str, KnownTrial]:
        """By key."""
        found = {}
        for store in reversed(self.stores):
            rule = str((store.study.get("search") or {}).get("rule", "mean"))
            for s in store.searches.values():
                vals = s.val or [None] * len(s.keys)
                for key, value, note, val in zip(s.keys, s.scores, s.notes, vals, strict=True):
                    found[key] = KnownTrial(value, note, val, rule)
        return found

    def trial(self, key: str, rule: str) -> KnownTrial | None:
        """A trial, if the file says how it does by this rule."""
        found = self.trials.get(key)
        return found if found is not None and (found.note or found.val or found.rule == rule) else None

    @cached_property
    def runs(self) -> dict[str, KeptRun]:
        """Key -> the run, with the results of all files that have it with the same weights."""
        found: dict[str, KeptRun] = {}
        for run in (run for store in self.stores for run in store.runs if run.state in DONE):
            first = found.setdefault(run.key, run)
            if first is not run and len(weights_of(first) | weights_of(run)) <= 1:
                have = {(result.data, result.protocol) for result in first.results}
                more = [result for result in run.results if (result.data, result.protocol) not in have]
                changed = {"results": [*first.results, *more], "texts": {**run.texts, **first.texts}}
                found[run.key] = first.model_copy(update=changed)
        return found

    def summary(self, key: str) -> dict[str, Any] | None:
        return self.runs[key].summary if key in self.runs else None

    def result(self, key: str, data: str, protocol: str) -> KeptResult | None:
        """The outcome of a run on a set, by its name in results, under the protocol of that hash."""
        found = self.runs[key].results if key in self.runs else []
        return next((r for r in found if r.data == data and r.protocol == protocol), None)


def weights_of(run: KeptRun) -> set[str]:
    """Hashes of the weights that a kept run was judged with."""
    return {result.checkpoint_sha256 for result in run.results}


def read_known(folder: Path) -> Known | None:
    """What `adopt` put there.

    Raises:
        ResultError: it cannot be read.
    """
    paths = sorted((folder / FOLDER).glob("*.json"))
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
        write_store(Path(folder) / FOLDER / f"{store.study['name']}.json", store)
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
