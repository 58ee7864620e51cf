"""Around every request: security headers, bounds on the body, errors as problems, and what is counted. Plain ASGI."""

import asyncio
import ipaddress
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tima.serve.limits import Limits
from tima.serve.metrics import Metrics
from tima.serve.problems import Problem, problem_of

# nothing from elsewhere, nothing inline: pictures may come from the page's own memory (data:, blob:)
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# a report is one self-contained page: its style and pictures are inside it, and it has nothing to run or to send
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """Wraps the application. An address's own headers win over the common ones. `names`: as in `Settings`."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, names: Collection[str] | None = None) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.names = None if names is None else {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check_head(scope)
            await self.app(scope, self._bounded(receive), answer)
        except Exception as error:
            if status:  # the answer is half out: nothing can be said any more
                raise
            await problem_of(error).response()(scope, receive, answer)
        finally:
            path = getattr(scope.get("route"), "path", "other")  # never the address itself: a label for each would be too many
            self.metrics.requests.add(method=_known_method(scope), path=path, status=str(status or 499))
            self.metrics.seconds.observe(time.perf_counter() - started, path=path)

    def _check_head(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers and "content-length" in headers:  # a proxy may count otherwise than we do
            raise Problem(400, "The length of the body is said in two ways.", where="the headers", do="Send one of them.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self.limits.body_bytes:
            raise self._too_large()
        # a stranger's name can be made to lead to this machine (DNS rebinding), and then his page could read all that is here
        host = headers.get("host", "")
        if self.names is not None and host and not _is_address(name := _name(host)) and name not in self.names:
            raise Problem(
                421, "This server has another name.", where="the header Host", do="Use localhost, or start it with --name NAME."
            )
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            _check_origin(headers)

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` that ends with a problem when the body is too large or too slow. After the body it may wait forever."""
        ends, taken, complete = time.monotonic() + self.limits.body_seconds, 0, False

        async def bounded() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, ends - time.monotonic()))
            except TimeoutError:
                said = f"The body did not arrive within {self.limits.body_seconds:g} s."
                raise Problem(408, said, where="the body", do="Send it faster, or send a smaller picture.") from None
            taken += len(message.get("body", b""))
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            if taken > self.limits.body_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> Problem:
        most = self.limits.body_bytes / (1 << 20)
        return Problem(
            413, f"The body is larger than the {most:g} MiB that are taken.", where="the body", do="Send a smaller picture."
        )


def _check_origin(headers: Headers) -> None:
    """Other pages can make a browser post forms here, also those of another port; nothing could leak, but it would be work.

    Browsers send `Sec-Fetch-Site` to this machine and over https only, `Origin` always; other clients send neither.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    where = None
    if site is not None:
        where = None if site in ("same-origin", "none") else "the header Sec-Fetch-Site"
    elif origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        where = "the header Origin"
    if where is not None:
        raise Problem(403, "Another site sent this request.", where=where, do="Use this page itself.")


def _name(host: str) -> str:
    """`Host` without its port: `localhost` of `Localhost:8000`, `::1` of `[::1]:8000`."""
    host = host.lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    """An IP address, which no name server can turn to another machine."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _known_method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other"
