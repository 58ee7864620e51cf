"""What a study finished elsewhere: its kept file, put into the folder of the study, counts as if it had been done here.

A kept file (`records.py`) has every search's scores and every run's outcomes, and no weights. So trials are never repeated, and
a run is trained again only where something is to be judged that the file lacks. Outcomes of weights that a new training did not
bring back bit for bit (another processor may round otherwise) are not taken for those of the new ones: they are judged again.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tima._files import write_json
from tima._reading import read_json_object
from tima.errors import ResultError
from tima.study.records import KeptResult, KeptRun, Store, read_store, write_store

FILE = "known.json"
DONE = ("finished", "collapsed")


@dataclass(frozen=True)
class Known:
    """A kept file by the keys of its trials and runs."""

    store: Store

    @cached_property
    def trials(self) -> dict[str, tuple[float | None, str]]:
        """Key -> its score (None: failed or collapsed) and why."""
        searches = self.store.searches.values()
        return {key: (score, note) for s in searches for key, score, note in zip(s.keys, s.scores, s.notes, strict=True)}

    @cached_property
    def runs(self) -> dict[str, KeptRun]:
        return {run.key: run for run in self.store.runs if run.state in DONE}

    def summary(self, key: str) -> dict[str, Any] | None:
        return self.runs[key].summary if key in self.runs else None

    def result(self, key: str, data: str, protocol: str) -> KeptResult | None:
        """The outcome of a run on a set, by its name in results, under the protocol of that hash."""
        found = self.runs[key].results if key in self.runs else []
        return next((r for r in found if r.data == data and r.protocol == protocol), None)


def read_known(folder: Path) -> Known | None:
    """What `adopt` put there.

    Raises:
        ResultError: it cannot be read.
    """
    return Known(read_store(folder / FILE)) if (folder / FILE).is_file() else None


def adopt(folder: str | Path, path: str | Path, name: str) -> None:
    """Let the study `name` in `folder` go on from a kept file. What the folder holds itself comes before it.

    Raises:
        ResultError: the file cannot be read, or is of another study.
    """
    store = read_store(path)
    if store.study.get("name") != name:
        raise ResultError(f"{path} is of the study '{store.study.get('name')}', not of '{name}'. Name the file of this one.")
    write_store(Path(folder) / FILE, store)


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
