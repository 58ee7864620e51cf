"""What is left to do: trainings and evaluations whose prerequisites are there, in the order of the file."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tima.protocols import Protocol
from tima.study.expand import Training, first_seeds, protocol_of, trials
from tima.study.schema import Evaluation, Study
from tima.study.state import State, choose, evaluation_name, headline_rows, ready_finals, seeds_of

TRIAL, TRAIN, EVALUATE = "search", "training", "evaluation"


@dataclass(frozen=True)
class Job:
    """One process's work: a training, or the evaluation of a training on all sets of one protocol."""

    kind: str
    training: Training
    evaluation: Evaluation | None = None
    protocol: Protocol | None = None

    @property
    def key(self) -> str:
        """Tells jobs apart. A trial that equals a final run is one job."""
        if self.protocol is None:
            return f"{self.training.key}/train"
        assert self.evaluation is not None
        return f"{self.training.key}/{self.protocol.name}-{self.protocol.sha256[:8]}/{','.join(self.evaluation.data)}"

    @property
    def title(self) -> str:
        recipe = self.training.recipe
        if self.training.trial is not None:
            return f"{self.training.row}: trial {settings_text(self.training.trial)}"
        run = f"{self.training.row}, seed {recipe.seed}"
        return f"{run}: train" if self.protocol is None else f"{run}: {self.protocol}"


@dataclass(frozen=True)
class Progress:
    """A job and how it stands: `todo`, `done`, `failed`, or `waiting` for a training before it."""

    job: Job
    state: str


def survey(study: Study, state: State) -> Iterator[Progress]:
    """Every job that is known by now, trials first, each once."""
    seen: set[str] = set()
    for progress in _all(study, state):
        if progress.job.key not in seen:
            seen.add(progress.job.key)
            yield progress


def trainings(study: Study, state: State) -> list[Training]:
    """All final runs that are known by now."""
    headline = headline_rows(study, state)
    found = []
    for name in study.rows:
        found += ready_finals(study, name, state, seeds_of(study, name, headline)) or []
    return found


def wanted(study: Study, evaluation: Evaluation, training: Training, headline: list[str]) -> bool:
    """Is this run judged by this evaluation?"""
    if evaluation.rows == "headline" and training.row not in headline:
        return False
    return evaluation.seeds == "all" or training.recipe.seed == first_seeds(study, training.row)[0]


def still_unknown(study: Study, state: State) -> int:
    """How many final runs wait for a search to be decided."""
    return sum(
        len(_rough_finals(study, name)) for name in study.rows if choose(study, name, state) is None
    )  # fmt: skip


def _rough_finals(study: Study, name: str) -> list[Training]:
    from tima.study.expand import finals

    return finals(study, name, {}, seeds_of(study, name, study.headline.rows))


def _all(study: Study, state: State) -> Iterator[Progress]:
    headline = headline_rows(study, state)
    runs = trainings(study, state)
    judged = [(e, protocol_of(e)) for e in study.evaluate]

    def lacking(training: Training) -> bool:
        """Known from elsewhere, but something is to be judged for which its weights are needed."""
        mine = [(data, p) for e, p in judged if wanted(study, e, training, headline) for data in e.data]
        return not all(state.evaluated(training.key, data, p) for data, p in mine)

    elsewhere = [run for run in runs if state.known is not None and state.summary_here(run.key) is None]
    again = {run.key for run in elsewhere if lacking(run)}
    for name in study.rows:
        for training in trials(study, name):
            yield _training(study, TRIAL, training, state, again)
    # first runs of all rows before more seeds: a study that is stopped early holds a whole comparison
    runs.sort(key=lambda t: t.recipe.seed not in first_seeds(study, t.row)[:1])
    for training in runs:
        yield _training(study, TRAIN, training, state, again)
        # at once: what outlives the machine is the judgement, not the weights
        for evaluation, protocol in judged:
            if wanted(study, evaluation, training, headline):
                yield _evaluation(training, evaluation, protocol, state)


def count_known(study: Study, folder: str | Path) -> dict[str, tuple[int, int]]:
    """Of the trials, trainings and evaluations that can be listed by now: how many need not be done because they were finished
    elsewhere, and how many there are."""
    state = State(Path(folder))
    found = {TRIAL: (0, 0), TRAIN: (0, 0), EVALUATE: (0, 0)}
    for progress in survey(study, state):
        job = progress.job
        if job.protocol is None or job.evaluation is None:
            here = state.summary_here(job.training.key) is not None
        else:
            here = all(state.evaluated_here(job.training.key, data, job.protocol) for data in job.evaluation.data)
        known, total = found[job.kind]
        found[job.kind] = known + (progress.state == "done" and not here), total + 1
    return found


def _training(study: Study, kind: str, training: Training, state: State, again: Collection[str]) -> Progress:
    """`again`: keys of runs whose weights are needed here."""
    job = Job(kind, training)
    known = state.known is not None and state.known.summary(training.key) is not None
    if kind == TRIAL and state.known is not None and study.search is not None:  # its score is enough
        known = known or state.known.trial(training.key, study.search.rule) is not None
    if state.summary_here(training.key) is not None or (known and training.key not in again):
        return Progress(job, "done")
    return Progress(job, "failed" if state.failure(training.key, "train") is not None else "todo")


def _evaluation(training: Training, evaluation: Evaluation, protocol: Protocol, state: State) -> Progress:
    job = Job(EVALUATE, training, evaluation, protocol)
    if all(state.evaluated(training.key, data, protocol) for data in evaluation.data):
        return Progress(job, "done")
    if state.summary_here(training.key) is None:
        return Progress(job, "failed" if state.failure(training.key, "train") is not None else "waiting")
    failed = 0
    for data in evaluation.data:
        if state.evaluated(training.key, data, protocol):
            continue
        if state.failure(training.key, evaluation_name(data, protocol)) is None:
            return Progress(job, "todo")
        failed += 1
    return Progress(job, "failed" if failed == len(evaluation.data) else "done")


def settings_text(settings: Any) -> str:
    """`lr=0.001 w_takd=0.3`: the last part of each name is enough for people."""
    return " ".join(f"{key.split('.')[-1]}={value}" for key, value in settings.items()) or "as given"
