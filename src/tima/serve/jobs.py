"""Work beside the event loop: how many may be inside, how long it may take, and how it ends when nobody waits any more.

A thread cannot be killed, so a job looks at its `Token` between steps and ends itself there.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from tima.serve.metrics import Metrics
from tima.serve.problems import Problem

T = TypeVar("T")


class Abandoned(Exception):
    """Raised inside a job that is over its time or that nobody waits for."""


class Token:
    """The right to go on working. Times are in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends, self._stopped = time.monotonic() + seconds, threading.Event()

    @property
    def left(self) -> float:
        return self._ends - time.monotonic()

    @property
    def valid(self) -> bool:
        return self.left > 0 and not self._stopped.is_set()

    def stop(self) -> None:
        self._stopped.set()

    def check(self) -> None:
        """Raise `Abandoned` unless the work may go on."""
        if not self.valid:
            raise Abandoned


class Room:
    """A place for so many requests, working or waiting; who finds it full is told when to come back."""

    def __init__(self, name: str, capacity: int, retry_after: int, metrics: Metrics) -> None:
        self.name, self.capacity, self.retry_after, self.inside = name, capacity, retry_after, 0
        self._metrics = metrics

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place for the length of the block.

        Raises:
            Problem: 503, all places are taken.
        """
        if self.inside >= self.capacity:
            self._metrics.refused.add(room=self.name)
            raise Problem(
                503,
                f"{self.capacity} requests are being worked on or waiting, as many as this server takes at once.",
                where=f"the queue of {self.name}",
                do=f"Send the request again in {self.retry_after} s or later.",
                retry_after=self.retry_after,
            )
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1


async def run_job(pool: Executor, token: Token, metrics: Metrics, kind: str, work: Callable[[], T]) -> T:
    """The result of `work()`, done in `pool`. Whatever ends the waiting early also ends the work, at its next look at `token`.

    Raises:
        Problem: 504, it took longer than the token allows.
    """
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        await asyncio.wait({future}, timeout=max(0.0, token.left))
        if not future.done():
            raise Abandoned
        return future.result()
    except Abandoned:
        metrics.abandoned.add(kind=kind)
        raise over_time(token, kind) from None
    except asyncio.CancelledError:  # the client hung up, or the server stops
        metrics.abandoned.add(kind=kind)
        raise
    finally:
        if not future.done():
            token.stop()
            future.cancel()  # does something only if no thread has begun with it
            future.add_done_callback(_look_away)


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """The results of all. Where one fails the others are cancelled, so that nothing works on for an answer that is out."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def over_time(token: Token, kind: str) -> Problem:
    return Problem(
        504,
        f"The work took longer than the {token.seconds:g} s that this server gives it, and was given up.",
        where=f"the work of {kind}",
        do="Ask for less: fewer models, classes, templates or steps.",
    )


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """`work`, cancelled when the client hangs up. To be called when the body has been read."""
    job, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({job, gone}, return_when=asyncio.FIRST_COMPLETED)
        if job.done():
            return job.result()
        raise Problem(408, "The client hung up.", where="the connection", do="Stay connected until the answer comes.")
    finally:
        job.cancel()
        gone.cancel()
        await asyncio.gather(job, gone, return_exceptions=True)  # so that it has let go before the request is over


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _look_away(future: "asyncio.Future[Any]") -> None:
    """The error of an abandoned job interests nobody; asyncio would log it as never retrieved."""
    if not future.cancelled():
        future.exception()
