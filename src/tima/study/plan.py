"""What a study would run and what that would cost, from a short timing of each kind of training on this machine.

A few steps of every kind of training are timed (the method and which of its terms are on; a learning rate costs nothing).
An evaluation cannot be timed beforehand, because its length depends on how many images will stand: its time is the number of
passes that its attacks may make, at the speed of a pass in training, if every image that the original gets right is attacked
at the smallest eps and `FALL` as many at each larger one. Where runs of the study are finished, their own times are taken.
"""

import inspect
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from tima._files import write_json
from tima.config import TrainRecipe
from tima.eps import format_eps
from tima.protocols import Protocol
from tima.report.words import duration
from tima.study.expand import Training, finals, protocol_of, trials
from tima.study.jobs import EVALUATE, TRAIN, TRIAL, Job, Progress, settings_text, survey, wanted
from tima.study.schema import Study
from tima.study.state import State, choose, read_object, seeds_of, set_name

STEPS = 3  # of a timing, of which the fastest counts
FALL = 0.6  # share of the images attacked at one eps that are attacked at the next
BACKWARD = 2.0  # a backward pass in units of a forward one
RIGHT = 0.25  # share right when clean where nothing is known; the estimate says so


def kind_of(recipe: TrainRecipe) -> str:
    """What a step's time depends on: everything but learning rate, eps, seed, length, and the size of weights."""
    values = recipe.model_dump(mode="json")
    for key in ("lr", "eps", "seed", "steps", "save_every", "val_every", "val_samples", "weight_decay", "data"):
        values.pop(key)
    numbers = {k: v == 0 if isinstance(v, (int, float)) else v for k, v in values["method_config"].items()}
    return json.dumps(values | {"method_config": numbers}, sort_keys=True)


def time_step(recipe: TrainRecipe) -> dict[str, float]:
    """Seconds of a step and its passes, measured by training a few steps in a folder that is removed afterwards."""
    from transformers.utils.logging import disable_progress_bar

    from tima.study.passes import measured
    from tima.train import train

    disable_progress_bar()
    short = {"steps": STEPS, "val_every": STEPS, "val_samples": 4, "val_attack_steps": 1, "save_every": STEPS}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tima-plan-") as folder, measured() as meter:
        train(recipe.model_copy(update=short), Path(folder) / "run", progress=False)
    if not meter.steps:  # nothing trains
        return {"step": 0.0, "start": time.monotonic() - began, "passes": 0.0}
    passes = (meter.forwards + BACKWARD * meter.backwards) / meter.steps
    start = time.monotonic() - began - meter.seconds
    return {"step": meter.fastest, "start": start, "passes": passes}


def timings(study: Study, folder: Path, console: Console) -> dict[str, dict[str, float]]:
    """The timing of every kind of training in the study, kept in `timing.json` of its folder."""
    path = folder / "timing.json"
    found = read_object(path) if path.is_file() else {}
    kinds: dict[str, TrainRecipe] = {}
    for name in study.rows:
        for training in trials(study, name) or finals(study, name, {}, [0])[:1]:
            kinds.setdefault(kind_of(training.recipe), training.recipe)
    for kind, recipe in kinds.items():
        if kind not in found:
            with console.status(f"timing {STEPS} steps of {recipe.method}"):
                found[kind] = time_step(recipe)
            write_json(path, found)
    return found


def training_seconds(recipe: TrainRecipe, timing: Mapping[str, float]) -> float:
    """Start, steps and validations of a whole run."""
    if not timing["step"]:
        return timing["start"]
    per_pass = timing["step"] / timing["passes"]
    validations = -(-recipe.steps // recipe.val_every)
    each = 2 * recipe.val_samples * (2 + (1 + BACKWARD) * recipe.val_attack_steps)
    return timing["start"] + recipe.steps * timing["step"] + validations * each * per_pass


def passes_of(protocol: Protocol) -> float:
    """Passes, in forward ones, that the protocol's attacks make on an image that withstands them all, at one eps."""
    from tima.attacks import find_stages

    total = 0.0
    for stage in find_stages(protocol.attack, protocol.attack_params):
        defaults = {k: p.default for k, p in inspect.signature(stage.attack).parameters.items()}
        every = {**defaults, **stage.params}
        params = {k: v for k, v in every.items() if isinstance(v, (int, float))}
        targeted = "targeted" in str(every.get("loss")) or stage.name.startswith("fab")
        rounds = params.get("restarts", 1) * (max(1, params.get("targets", 1)) if targeted else 1)
        queries = params.get("queries", params.get("tries"))
        total += queries if queries is not None else rounds * params.get("steps", 1) * (1 + BACKWARD)
    return total


def evaluation_seconds(protocol: Protocol, sets: int, per_pass: float, right: float = RIGHT) -> float:
    """All sets of one run. `right`: share of images that are right when clean."""
    images = protocol.samples or 1000
    attacked = images * right * sum(FALL**k for k in range(len(protocol.eps)))
    return sets * per_pass * (images + attacked * passes_of(protocol))


def show_plan(study: Study, folder: Path, workers: int, threads: int | None, console: Console) -> None:
    """Print every run, its state and its estimated time, and the sum for so many workers."""
    if threads:
        import torch

        torch.set_num_threads(threads)
    state = State(folder)
    known = timings(study, folder, console)
    costs = _Costs(study, state, known)
    table = Table(title=f"Study {study.name}", title_justify="left", box=None)
    for column in ("row", "what", "eps", "data", "seed", "state", "about"):
        table.add_column(column, justify="right" if column == "about" else "left")
    left = 0.0
    for progress in [*survey(study, state), *_later(study, state)]:
        training = progress.job.training
        seconds = costs.of(progress)
        left += seconds if progress.state in ("todo", "waiting") else 0
        what = str(progress.job.protocol) if progress.job.protocol is not None else progress.job.kind
        if training.trial is not None:
            what = f"trial {settings_text(training.trial)}"
        elif progress.job.kind == EVALUATE and progress.job.evaluation is not None:
            what += f" on {len(progress.job.evaluation.data)} sets"
        cells = (format_eps(training.recipe.eps), set_name(training.recipe.data), str(training.recipe.seed))
        table.add_row(training.row, what, *cells, progress.state, duration(seconds))
    console.print(table)
    missing = _missing(study)
    if missing:
        console.print(f"[yellow]Not found on this machine, and therefore left out:[/] {', '.join(missing)}", highlight=False)
    console.print(
        f"Left: about {duration(left)} of one worker, {duration(left / workers)} with {workers}. Trainings are timed; until an "
        f"evaluation is finished, evaluations are an upper guess: {100 * costs.right:.0f} % right when clean, and at each next "
        f"eps {100 * FALL:.0f} % as many images attacked. Runs after an open search have their settings still to come.",
        highlight=False,
    )


class _Costs:
    """Seconds of a job: measured where such a one is finished, else estimated."""

    def __init__(self, study: Study, state: State, known: Mapping[str, Mapping[str, float]]) -> None:
        self.state, self.known = state, known
        speeds = [t["step"] / t["passes"] for t in known.values() if t["passes"]]
        self.per_pass = mean(speeds) if speeds else 0.0
        self.judged: dict[str, list[float]] = {}
        clean = []
        for progress in survey(study, state):
            job = progress.job
            if job.kind == EVALUATE and progress.state == "done" and job.protocol is not None and job.evaluation is not None:
                paths = [state.result(job.training.key, data, job.protocol) for data in job.evaluation.data]
                values = [read_object(path) for path in paths if path.is_file()]
                self.judged.setdefault(job.protocol.sha256, []).append(sum(float(v["wall_time_s"]) for v in values))
                clean += [float(v["clean"]["accuracy"]) for v in values]
        self.right = mean(clean) if clean else RIGHT

    def of(self, progress: Progress) -> float:
        job = progress.job
        if job.kind in (TRIAL, TRAIN):
            summary = self.state.summary(job.training.key)
            if summary is not None:
                return float(summary["seconds"])
            return training_seconds(job.training.recipe, self.known[kind_of(job.training.recipe)])
        assert job.protocol is not None and job.evaluation is not None
        same = self.judged.get(job.protocol.sha256)
        return mean(same) if same else evaluation_seconds(job.protocol, len(job.evaluation.data), self.per_pass, self.right)


def _later(study: Study, state: State) -> list[Progress]:
    """Final runs of rows whose search is open, as they would be with the first point of the grid."""
    found = []
    for name in study.rows:
        if choose(study, name, state) is not None:
            continue
        seeds = seeds_of(study, name, study.headline.rows)
        runs = [Training(name, t.recipe) for t in finals(study, name, _first_point(study, name), seeds)]
        found += [Progress(Job(TRAIN, run), "waiting") for run in runs]
        for evaluation in study.evaluate:
            judged = [run for run in runs if wanted(study, evaluation, run, study.headline.rows)]
            found += [Progress(Job(EVALUATE, run, evaluation, protocol_of(evaluation)), "waiting") for run in judged]
    return found


def _first_point(study: Study, name: str) -> Mapping[str, Any]:
    source = study.rows[name].search
    points = trials(study, name if source == "own" else source)
    return (points[0].trial or {}) if points else {}


def _missing(study: Study) -> list[str]:
    """Data sets that the study names and that are not here."""
    from tima.data import find_data
    from tima.errors import DataError

    found = []
    for name in dict.fromkeys(data for evaluation in study.evaluate for data in evaluation.data):
        try:
            find_data(name)
        except DataError:
            found.append(name)
    return found
