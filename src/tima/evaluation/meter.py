"""The bar of an evaluation: how far, how fast, how many still stand, how long it takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Meter:
    """One line that counts image-attacks of the eps in progress: an image that breaks has its remaining attacks done."""

    def __init__(self, bar: Progress, name: str) -> None:
        self.bar, self.name = bar, name
        self.task: TaskID | None = None
        self.title, self.total, self.standing = "", 0, 0
        self.shown = self.since = 0.0
        self.sent = 0

    def begin(self, title: str, todo: int, total: int, standing: int) -> None:
        """A new pass of `todo` steps. `standing` of `total` images are still right."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.title, self.total, self.standing = title, total, standing
        self.task = self.bar.add_task(self._words(""), total=todo)

    def advance(self, count: int, broken: int = 0) -> None:
        self.standing -= broken
        if self.task is not None:
            self.bar.update(self.task, advance=count, description=self._words(""))

    def attack(self, name: str) -> None:
        """An attack begins."""
        self.since, self.sent, self.shown = time.monotonic(), 0, 0.0
        if self.task is not None:
            self.bar.update(self.task, description=self._words(name))
        self.now = name

    def images(self, count: int) -> None:
        """So many images went through the model: one attack on a block may take hours, and this says that it lives."""
        self.sent += count
        now = time.monotonic()
        if self.task is not None and now - self.shown > 1:
            self.shown = now
            speed = self.sent / max(now - self.since, 1e-9)
            self.bar.update(self.task, description=self._words(f"{self.now} {speed:,.0f} images/s"))

    def _words(self, attack: str) -> str:
        standing = f"robust so far {100 * self.standing / self.total:.1f} %" if self.total else ""
        return "  ".join(word for word in (self.name, self.title, attack, standing) if word)


@contextmanager
def meter(name: str, enabled: bool) -> Iterator[Meter]:
    """A bar on the terminal, or a silent one."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    with Progress(*columns, transient=True, disable=not enabled) as bar:
        yield Meter(bar, name)
