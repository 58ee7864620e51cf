"""Downloads that go on where they stopped and are what they should be.

A file comes as `<name>.part` and gets its name when it is whole and its checksum right. After an interruption the server is
asked for the rest (`Range`, RFC 9110 section 14), and only if the file is still the same there (`If-Range`).
"""

import hashlib
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tima.errors import DataError, TimaError

Progress = Callable[[int, int | None], None]
TRIES = 5
TIMEOUT = 30  # seconds without a byte
BLOCK = 1 << 20
AGENT = "tima (https://arxiv.org/abs/2405.17678)"


def download(
    url: str,
    target: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    pause: float = 1.0,
) -> Path:
    """Fetch `url` into the file `target`; a file that is there already and has the right checksum stays.

    Args:
        md5, sha256: as the publisher states them, in hexadecimal.
        progress: is told bytes so far and bytes in all (None when the server does not say).
        pause: seconds before the second try, doubled for each further one.

    Raises:
        DataError: no answer, an error of the server, another checksum (the file is deleted).
        TimaError: the disk is full.
    """
    _check_scheme(url)
    if target.is_file() and (md5 or sha256) and _mismatch(target, md5, sha256) is None:
        return target
    part = target.with_name(target.name + ".part")
    why: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _fetch(url, part, progress)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 425, 429):
                raise DataError(
                    f"{url}: the server answers {error.code} {error.reason}. The address may have changed."
                ) from error
            why = error
        except (HTTPException, urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, _CutOff) as error:
            why = error
        except OSError as error:
            raise TimaError(
                f"Could not write {part}: {error.strerror or error}. What was fetched stays and is gone on with."
            ) from error
    else:
        kept = f" {part.stat().st_size:,} bytes are kept in {part}; the same command goes on there." if part.is_file() else ""
        raise DataError(f"{url} could not be fetched in {TRIES} tries ({why}).{kept}")
    wrong = _mismatch(part, md5, sha256)
    if wrong is not None:
        part.unlink()
        _state(part).unlink(missing_ok=True)
        raise DataError(
            f"{url}: {wrong}. What came is not what its publisher describes; it was deleted. Try again, or fetch it by hand."
        )
    part.replace(target)
    _state(part).unlink(missing_ok=True)
    return target


def read_url(url: str, limit: int = 1 << 20) -> str | None:
    """A small text file, or None when the server has none.

    Raises:
        DataError: no answer, or another error of the server.
    """
    try:
        with _open(url, {}) as answer:
            data = answer.read(limit + 1)
        if len(data) > limit:
            raise DataError(f"{url} is larger than {limit:,} bytes. It should be a small text file.")
        return str(data.decode("utf-8-sig"))
    except urllib.error.HTTPError as error:
        if error.code in (403, 404, 410):
            return None
        raise DataError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise DataError(f"{url} cannot be read ({error}).") from error


def size_of_url(url: str) -> int | None:
    """Size in bytes as the server states it, or None."""
    try:
        with _open(url, {}, "HEAD") as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, HTTPException, TypeError, ValueError):
        return None


class _CutOff(Exception):
    """The connection ended before the file did."""


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """One try: the rest of `part`, or all of it."""
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    mark = _mark(part, url) if have else None
    headers = {"Range": f"bytes={have}-", "If-Range": mark} if mark else {}
    try:
        answer = _open(url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not headers:
            raise
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(have):  # all of it had come before the interruption
            return
        answer, headers = _open(url, {}), {}
    with answer:
        goes_on = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        if answer.status == 206 and not goes_on:
            raise _CutOff(f"the server sent another part than asked for: {answer.headers.get('Content-Range')}")
        length = answer.headers.get("Content-Length") or ""
        start = have if goes_on else 0
        total_bytes = start + int(length) if length.isdecimal() else None
        strong = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        now = answer.headers.get("ETag" if mark and mark.startswith('"') else "Last-Modified")
        if goes_on and mark and now and now != mark:  # a server that knows Range and not If-Range: two halves of two files
            part.unlink()
            raise _CutOff("the file has changed on the server meanwhile")
        if strong and not strong.startswith("W/"):
            _state(part).write_text(json.dumps({"url": url, "mark": strong}), encoding="utf-8")
        else:
            _state(part).unlink(missing_ok=True)
        with part.open("ab" if goes_on else "wb") as file:
            done = start
            while block := answer.read(BLOCK):
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total_bytes)
        if total_bytes is not None and done != total_bytes:
            raise _CutOff(f"{done:,} of {total_bytes:,} bytes came")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Not to ftp, which urllib would follow too, and not from https to http, where anybody on the way may answer."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allowed = ("https://",) if req.full_url.lower().startswith("https:") else ("http://", "https://")
        if not newurl.lower().startswith(allowed):
            raise DataError(f"{req.full_url} leads to {newurl[:200]}, which is not followed: it is less safe than https.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], method: str = "GET") -> Any:
    _check_scheme(url)
    request = urllib.request.Request(url, method=method, headers={"User-Agent": AGENT, **headers})
    return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)


def _check_scheme(url: str) -> None:
    if not url.lower().startswith(("http://", "https://")):
        raise DataError(f"{url}: only http and https addresses can be downloaded.")


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _mark(part: Path, url: str) -> str | None:
    """What the server called the version that `part` is the beginning of."""
    try:
        held = json.loads(_state(part).read_text(encoding="utf-8"))
        return str(held["mark"]) if held["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mismatch(file: Path, md5: str | None, sha256: str | None) -> str | None:
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, lambda kind=kind: hashlib.new(kind, usedforsecurity=False)).hexdigest()  # type: ignore[misc]
            if found != expected.lower():
                return f"its {kind} is {found}, not {expected}"
    return None
