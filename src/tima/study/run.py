"""The course of a study: a process for each job, several at a time, until nothing is left that can be done.

Safe to stop at any moment: all that is known is in the runs' folders, trainings and evaluations go on inside themselves, and
workers end with the study. One study at a time works in a folder.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tima._files import write_json, write_text
from tima.errors import TimaError
from tima.study.board import Board
from tima.study.jobs import Job, survey
from tima.study.schema import Study
from tima.study.state import Failure, State, evaluation_name
from tima.study.work import describe, perform

POLL = 0.2  # seconds
ASKED_TO_END = {getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)}


@dataclass
class Worker:
    """A process at work on a job."""

    slot: int
    job: Job
    process: "subprocess.Popen[bytes]"
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Outcome:
    """Titles of what was finished in this call, and `{title: why}` of all that failed, now or before."""

    finished: list[str]
    failed: dict[str, str]


def run_study(
    study: Study,
    folder: str | Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    retry: bool = False,
    progress: bool = True,
) -> Outcome:
    """Do what is left of a study.

    Args:
        folder: where its runs go; a later call with the same folder goes on there.
        workers: processes at a time; 0 works in this one, job after job.
        threads: of each worker; by default the cores that this process may use, shared out evenly.
        retry: try again what failed before. Sets that were missing are looked for again in any case.
        progress: show a board.

    Raises:
        TimaError: another study is at work in the folder, or the disk is full.
    """
    folder = Path(folder)
    with alone(folder) as lock:
        write_text(folder / "study.json", json.dumps(study.content(), indent=1, ensure_ascii=False) + "\n")
        State(folder).forget_failures(retry)
        course = _Course(study, State(folder), workers, threads, lock, Board(study, progress))
        with course.board:
            course.go()
    return Outcome(course.finished, failures(study, State(folder)))


def failures(study: Study, state: State) -> dict[str, str]:
    """`{title: why}` of every training and evaluation that failed."""
    found = {}
    for progress in survey(study, state):
        job = progress.job
        if job.protocol is None:
            failure = state.failure(job.training.key, "train")
            if failure is not None:
                found[job.title] = str(failure)
        elif job.evaluation is not None:
            for data in job.evaluation.data:
                failure = state.failure(job.training.key, evaluation_name(data, job.protocol))
                if failure is not None:
                    found[f"{job.title}, {data}"] = str(failure)
    return found


class _Course:
    """What is running, and what was tried in this call."""

    def __init__(self, study: Study, state: State, workers: int, threads: int | None, lock: IO[Any], board: Board) -> None:
        self.study, self.state, self.count, self.lock, self.board = study, state, workers, lock, board
        self.cores = _cores()
        self.threads = threads or max(1, len(self.cores) // max(workers, 1))
        self.tried: set[str] = set()
        self.running: list[Worker] = []
        self.finished: list[str] = []

    def go(self) -> None:
        try:
            while True:
                todo = self._todo()
                if self.count == 0:
                    if not todo:
                        return
                    self._inline(todo[0])
                    continue
                for slot in sorted(set(range(self.count)) - {w.slot for w in self.running})[: len(todo)]:
                    self._start(slot, todo.pop(0))
                if not self.running:
                    return
                self._wait()
        except BaseException:
            self._stop()
            raise

    def _todo(self) -> list[Job]:
        """What can be started now, and the board brought up to date."""
        found = list(survey(self.study, self.state))
        self.board.update(found, self.state)
        return [p.job for p in found if p.state == "todo" and p.job.key not in self.tried]

    def _inline(self, job: Job) -> None:
        self.tried.add(job.key)
        began = time.monotonic()
        self.board.working([(0, job, 0.0)], self.state)
        perform(describe(job, self.state, None))
        self._report(job, time.monotonic() - began)

    def _start(self, slot: int, job: Job) -> None:
        self.tried.add(job.key)
        place = self.state.folder / "workers"
        write_json(place / f"{slot}.json", describe(job, self.state, self.threads))
        run = self.state.run(job.training.key)
        run.mkdir(parents=True, exist_ok=True)
        log = run / "log.txt"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", "from tima.study.work import main; main()", str(place / f"{slot}.json")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._environment(slot),
                start_new_session=True,  # Ctrl-C ends the study, which then ends its workers
                pass_fds=(self.lock.fileno(),)
                if os.name == "posix"
                else (),  # the folder is taken for as long as a worker lives
            )
        _pin(process.pid, _share(self.cores, slot, self.threads))
        self.running.append(Worker(slot, job, process))

    def _environment(self, slot: int) -> dict[str, str]:
        changed = {"OMP_NUM_THREADS": str(self.threads), "MKL_NUM_THREADS": str(self.threads)}
        changed |= {"TOKENIZERS_PARALLELISM": "false"}
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu.strip()]
        if len(gpus) > 1:
            changed["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        return {**os.environ, **changed}

    def _wait(self) -> None:
        """Until a worker is done."""
        while not any(w.process.poll() is not None for w in self.running):
            self.board.working([(w.slot, w.job, time.monotonic() - w.since) for w in self.running], self.state)
            time.sleep(POLL)
        for worker in [w for w in self.running if w.process.poll() is not None]:
            self.running.remove(worker)
            code = worker.process.returncode
            if code != 0 and -code not in ASKED_TO_END:
                self._crashed(worker, code)
            self._report(worker.job, time.monotonic() - worker.since)

    def _crashed(self, worker: Worker, code: int) -> None:
        """The process ended without a word: that is a failure of this job too."""
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        hint = "; the system may have run out of memory" if why.endswith("SIGKILL") else ""
        failure = Failure("crash", f"The process ended with {why}{hint}. See log.txt in the run's folder.")
        job = worker.job
        if job.protocol is None:
            if self.state.summary_here(job.training.key) is None:
                self.state.fail(job.training.key, "train", failure)
            return
        assert job.evaluation is not None
        for data in job.evaluation.data:
            name = evaluation_name(data, job.protocol)
            done = self.state.evaluated(job.training.key, data, job.protocol)
            if not done and self.state.failure(job.training.key, name) is None:
                self.state.fail(job.training.key, name, failure)
                self.tried.discard(job.key)  # that was the set it was at; the others are begun again
                return

    def _report(self, job: Job, seconds: float) -> None:
        what = next((p.state for p in survey(self.study, self.state) if p.job.key == job.key), "todo")
        if what == "done":
            self.finished.append(job.title)
        why = self.state.failure(job.training.key, "train") if job.protocol is None else None
        self.board.finished(job, what, str(why) if why is not None else "", seconds)

    def _stop(self) -> None:
        for worker in self.running:
            worker.process.terminate()
        for worker in self.running:
            try:
                worker.process.wait(10)
            except subprocess.TimeoutExpired:
                worker.process.kill()


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _share(cores: list[int], slot: int, threads: int) -> list[int]:
    """The cores of a worker: its own while there are enough, then round again."""
    start = slot * threads
    return sorted({cores[(start + i) % len(cores)] for i in range(threads)})


def _pin(pid: int, cores: list[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(pid, cores)
        except OSError:
            return  # forbidden here, or the process has ended: it runs wherever the system puts it


@contextmanager
def alone(folder: Path) -> Iterator[IO[Any]]:
    """Hold the folder. Workers of a study that was killed let go within a second, so a moment is waited for them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on this system
            yield file
            return
        deadline = time.monotonic() + 5
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise TimaError(
                        f"Another study is at work in {folder}. Wait for it, stop it, or give another --out."
                    ) from None
                time.sleep(0.2)
        yield file
