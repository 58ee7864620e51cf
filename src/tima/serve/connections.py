"""Connections that say nothing, or a request's head a letter at a time, are closed: uvicorn itself waits for them forever.

Each would hold a file descriptor of the few that a process has. Bodies have their own bound, in `guard.py`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0


class PatientH11(H11Protocol):
    """uvicorn's HTTP/1.1 over h11, whose patience with the head of a request ends after `head_seconds`."""

    head_seconds = HEAD_SECONDS
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._late is None and not self._at_work():  # the head of one more request on a kept connection
            self._wait()
        super().data_received(data)
        if self._at_work():
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._late = self.loop.call_later(self.head_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
