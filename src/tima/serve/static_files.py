"""The page's own files, read once at the start: a request for one is a look into a dictionary."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from fastapi import Request
from fastapi.responses import Response

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class StaticFile:
    data: bytes
    media_type: str

    @property
    def tag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:20]}"'

    def response(self, request: Request) -> Response:
        """The file, or 304 where the browser has it already."""
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.data, headers=headers, media_type=self.media_type)


def read_static() -> dict[str, StaticFile]:
    """Every file of `static/` by its name."""
    found = {}
    for file in (files("tima.serve") / "static").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if file.is_file() and suffix in TYPES:
            kind = TYPES[suffix]
            found[file.name] = StaticFile(file.read_bytes(), f"{kind}; charset=utf-8")
    return found
