"""A run as the report sees it: a readable name, what it was trained with, its metrics and its stored results.

Nothing is computed again here: `results/*.json`, `summary.json` and `metrics.jsonl` are read as they are.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tima._reading import read_json_object
from tima.eps import format_eps, parse_eps
from tima.errors import ResultError

if TYPE_CHECKING:
    from tima.results import Result

# How the papers write their names. A method that is not listed appears under its own name.
METHOD_TITLES = {
    "tima": "TIMA",
    "tima-v1": "TIMA v1",
    "tima-plus": "TIMA-plus (ours)",
    "tecoa": "TeCoA",
    "ft-clean": "FT-clean",
    "fare": "FARE",
    "pmg-aft": "PMG-AFT",
    "laat": "LAAT",
    "tga-zsr": "TGA-ZSR",
    "comp-tga": "Comp-TGA",
    "agft": "AGFT",
    "advflyp": "AdvFLYP",
    "trades": "TRADES",
    "mart": "MART",
    "ft-adv": "FT-adv",
    "zero-shot": "original",
}
ORIGINAL = "original"


@dataclass(frozen=True)
class Stored:
    """A result and the file it was read from; the images' outcomes lie beside it."""

    path: Path
    record: "Result"


@dataclass(frozen=True)
class Run:
    """One row of the report.

    Attributes:
        folder: the run folder.
        name: what tables call it; unique within a report.
        series: colour and marker number; 0 is kept for the first untrained model.
        summary: `summary.json`, empty for a model nobody trained here.
        metrics: lines of `metrics.jsonl`, empty if there are none.
        results: what was measured, by file name; empty if nothing was.
        training: a training that has not written its summary yet, or was stopped; `summary` then holds what its recipe says.
    """

    folder: Path
    name: str
    series: int
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    results: list[Stored]
    training: bool = False

    @property
    def trained(self) -> bool:
        return bool(self.metrics) or self.name.split(" (")[0] != ORIGINAL

    @property
    def model(self) -> str:
        """The dual encoder it started from."""
        known = [self.summary.get("model"), *(stored.record.model for stored in self.results)]
        return str(next((name for name in known if name), "unknown model"))

    @property
    def step(self) -> int:
        """The last optimiser step that was logged."""
        return max((int(record["step"]) for record in self.metrics), default=0)

    @property
    def train_eps(self) -> str | None:
        """The training attack's eps as text, None for a model that met no attack."""
        eps = self.summary.get("eps")
        return format_eps(parse_eps(eps)) if eps and self.trained else None


def read_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Read run folders in the order given.

    Raises:
        ResultError: no folder given, a folder that is not there or is given twice, or a file in it that cannot be read.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ResultError("No run folder was given. Name at least one, for example: tima report runs/demo/tima")
    for path in paths:
        if not path.is_dir():
            raise ResultError(f"Run folder {path} is not there. Give folders that `tima train` or `tima evaluate` wrote.")
    twice = [path for path, count in Counter(path.resolve() for path in paths).items() if count > 1]
    if twice:
        raise ResultError(f"Run folder {twice[0]} was given twice. Name every run once.")
    return _number(_name_apart([_read_run(path) for path in paths]))


def _read_run(folder: Path) -> Run:
    from tima.results import read_result

    summary_file = folder / "summary.json"
    training = not summary_file.is_file() and (folder / "recipe.yaml").is_file()
    summary = (
        _read_recipe(folder / "recipe.yaml")
        if training
        else read_json_object(summary_file, "Delete it or run the training again.")
        if summary_file.is_file()
        else {}
    )
    method = str(summary.get("method", "zero-shot")).replace("_", "-")
    name = METHOD_TITLES.get(method, method) + _addition(method, folder / "recipe.yaml")
    # not load_results: a run without results is a row of "missing" here, not an error
    paths = sorted(path for path in (folder / "results").glob("*.json") if not path.name.startswith("."))
    results = [Stored(path, read_result(path)) for path in paths]
    return Run(folder, name, 0, summary, _read_metrics(folder / "metrics.jsonl"), results, training)


def _name_apart(runs: list[Run]) -> list[Run]:
    """Runs of the same method also carry their folder's name (and its parent's, if that is not enough)."""
    for parts in (1, 2, 3):
        count = Counter(run.name for run in runs)
        runs = [
            replace(run, name=f"{run.name.split(' (')[0]} ({'/'.join(run.folder.resolve().parts[-parts:])})")
            if count[run.name] > 1
            else run
            for run in runs
        ]
    return runs


def _number(runs: list[Run]) -> list[Run]:
    """Series 0 (grey) goes to the first untrained model: the baseline recedes and the methods carry the colours."""
    baseline = next((run for run in runs if not run.trained), None)
    numbers = iter(range(1, len(runs) + 1))
    return [replace(run, series=0 if run is baseline else next(numbers)) for run in runs]


def _addition(method: str, recipe: Path) -> str:
    """What a run called TIMA has that the papers' method has not, docs/method.md (11): it must be said where it is named."""
    if not method.startswith("tima") or not recipe.is_file():
        return ""
    weight = (_read_yaml(recipe).get("method_config") or {}).get("w_feature", 0)
    return " + features" if weight else ""


def _read_recipe(path: Path) -> dict[str, Any]:
    """What a recipe says that a summary will say too."""
    value = _read_yaml(path)
    return {name: value[name] for name in ("method", "model", "data", "eps", "steps", "seed") if name in value}


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ResultError(f"{path} cannot be read: {error}. Restore it or train again in another folder.") from error
    if not isinstance(value, dict):
        raise ResultError(f"{path} should hold the settings of a run, but holds a {type(value).__name__}.")
    return value


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl. The last line may be cut off when a run was killed; anything else broken is an error."""
    if not path.is_file():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ResultError(f"{path}, line {number} is not a metrics record ({error}). Delete that line to go on.") from error
        records.append(record)
    return records
