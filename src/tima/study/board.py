"""The progress board: what each worker does and how far it is, what was finished, how much is left. Read from the files."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tima.report.words import duration
from tima.study.jobs import EVALUATE, Job, Progress, still_unknown
from tima.study.schema import Study
from tima.study.state import State, read_object

if TYPE_CHECKING:
    from rich.console import RenderableType

LINES = 8  # finished jobs that stay in sight


class Board:
    """Use as a context manager. On a terminal a live table; elsewhere one line for each finished job."""

    def __init__(self, study: Study, show: bool) -> None:
        self.study, self.console = study, Console(stderr=True, quiet=not show)
        self.live = Live(console=self.console, refresh_per_second=2, transient=True) if self.console.is_terminal else None
        self.found: list[Progress] = []
        self.unknown = 0
        self.recent: list[str] = []
        self.seconds: dict[str, list[float]] = {}
        self.began = self.drawn = time.monotonic()
        self.active: Sequence[tuple[int, Job, float]] = ()

    def __enter__(self) -> "Board":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, found: list[Progress], state: State) -> None:
        """The survey after a change."""
        self.found, self.unknown = found, still_unknown(self.study, state)

    def working(self, active: Sequence[tuple[int, Job, float]], state: State) -> None:
        """(worker, job, seconds) at this moment."""
        self.active = active
        if self.live is not None and time.monotonic() - self.drawn > 0.5:
            self.drawn = time.monotonic()
            self.live.update(self._draw(state))

    def finished(self, job: Job, state: str, why: str, seconds: float) -> None:
        """A job came to its end."""
        self.seconds.setdefault(job.kind, []).append(seconds)
        word = {"done": "[green]done[/]", "failed": "[red]failed[/]"}.get(state, "[yellow]stopped[/]")
        line = f"{word} {escape(job.title)} [dim]{duration(seconds)}[/]" + (f"  [red]{escape(why)}[/]" if why else "")
        self.recent = [*self.recent, line][-LINES:]
        if self.live is None:
            self.console.print(line, highlight=False)

    def _draw(self, state: State) -> "RenderableType":
        workers = Table(box=None, padding=(0, 1))
        for title in ("", "doing", "", ""):
            workers.add_column(title, style="dim" if title == "" else "")
        for slot, job, seconds in self.active:
            share = how_far(job, state)
            bar = ProgressBar(total=1.0, completed=share, width=24)
            workers.add_row(str(slot), Text(job.title), bar, f"{100 * share:.0f} % {duration(seconds)}")
        done = sum(p.state in ("done", "failed") for p in self.found)
        total = len(self.found) + self.unknown * (1 + len(self.study.evaluate))
        head = Text.assemble(
            (f"study {self.study.name}", "bold"),
            f"  {done} of {total} jobs, {sum(p.state == 'failed' for p in self.found)} failed, ",
            f"{duration(time.monotonic() - self.began)} at work{self._left(total - done)}",
        )
        return Group(
            head, ProgressBar(total=max(total, 1), completed=done, width=60), workers, *map(Text.from_markup, self.recent)
        )

    def _left(self, jobs: int) -> str:
        """By the mean time of the jobs finished in this call, each kind by its own where it is known."""
        known = [s for values in self.seconds.values() for s in values]
        if not known:
            return ""
        mean = {kind: sum(values) / len(values) for kind, values in self.seconds.items()}
        usual = sum(known) / len(known)
        open_jobs = [p.job.kind for p in self.found if p.state in ("todo", "waiting")]
        rest = sum(mean.get(kind, usual) for kind in open_jobs) + usual * max(0, jobs - len(open_jobs))
        return f", about {duration(rest / max(1, len(self.active)))} left"


def how_far(job: Job, state: State) -> float:
    """Share of a job that is done, from the files it writes."""
    run = state.run(job.training.key)
    if job.kind != EVALUATE or job.protocol is None or job.evaluation is None:
        return min(1.0, _last_step(run / "metrics.jsonl") / job.training.recipe.steps)
    rows = 0.0
    for data in job.evaluation.data:
        path = state.result(job.training.key, data, job.protocol)
        if path.is_file():
            rows += (1 + len(read_object(path).get("robust", []))) / (1 + len(job.protocol.eps))
    return rows / len(job.evaluation.data)


def _last_step(path: Path) -> int:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # being written
    return 0
