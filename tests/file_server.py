"""A web server for tests: a folder of files, with ranges, that can break off, change its files or forbid them."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class FileServer:
    """What the server does and saw.

    Attributes:
        breaks: bytes after which each coming answer breaks off, the first one first.
        ranges: answer `Range` with 206; a server that cannot sends everything.
        status: answers of this status to everything, the first one first.
        asked: `(method, path, Range)` of every request.
    """

    folder: Path
    url: str = ""
    breaks: list[int] = field(default_factory=list)
    ranges: bool = True
    status: list[int] = field(default_factory=list)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)

    def fetched(self, path: str) -> int:
        return sum(method == "GET" and seen == path for method, seen, _ in self.asked)


@contextmanager
def serve(folder: Path) -> Iterator[FileServer]:
    """Serve `folder` on a free port of this machine."""
    state = FileServer(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            asked_range = self.headers.get("Range")
            state.asked.append((self.command, self.path, asked_range))
            file = state.folder / self.path.lstrip("/").split("?")[0]
            if state.status:
                self.send_error(state.status.pop(0))
                return
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            tag = f'"{hashlib.md5(data).hexdigest()}"'
            same = self.headers.get("If-Range") in (None, tag)
            start = int(asked_range.removeprefix("bytes=").rstrip("-")) if asked_range and same and state.ranges else 0
            if start >= len(data) and start:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(data) - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if body:
                stop = start + state.breaks.pop(0) if state.breaks else len(data)
                self.wfile.write(data[start:stop])
            self.close_connection = True

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
