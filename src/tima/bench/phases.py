"""`Phases`: who had the clock. Every moment belongs to exactly one phase, so that the parts sum to the whole.

The clock may be anything that only grows: seconds, or operations counted so far.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

NAMES = (
    "data",
    "text forward",
    "teacher",
    "attack forward",
    "attack backward",
    "attack rest",
    "outer forward",
    "outer backward",
    "text backward",
    "optimiser",
    "rest",
)


class Phases:
    """A stack of phases over a base; time goes to the one on top.

    Args:
        clock: grows; read at every change.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.totals: dict[str, float] = dict.fromkeys(NAMES, 0.0)
        self._stack = ["rest"]
        self._mark = clock()

    def _book(self) -> None:
        now = self.clock()
        self.totals[self._stack[-1]] += now - self._mark
        self._mark = now

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """`name` has the clock until the block ends, but for what is inside it."""
        self._book()
        depth = len(self._stack)
        self._stack.append(name)
        try:
            yield
        finally:
            self._book()
            del self._stack[depth:]

    def base(self, name: str) -> None:
        """What has the clock when nothing else has."""
        self._book()
        self._stack[0] = name

    def turn(self, before: str, after: str) -> None:
        """Where `before` is on top, `after` takes its place for the rest of its block."""
        if self._stack[-1] == before:
            self._book()
            self._stack[-1] = after

    def within(self, name: str) -> bool:
        """Whether a block of that name is open."""
        return name in self._stack

    def take(self) -> dict[str, float]:
        """The totals since the last call."""
        self._book()
        found, self.totals = self.totals, dict.fromkeys(NAMES, 0.0)
        return found
