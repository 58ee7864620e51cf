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
    if not url.startswith(("http://", "https://")):
        raise DataError(f"{url}: only http and https addresses can be downloaded.")
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
            return str(answer.read(limit).decode("utf-8-sig"))
    except urllib.error.HTTPError as error:
        if error.code in (403, 404, 410):
            return None
        raise DataError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise DataError(f"{url} cannot be read ({error}).") from error


def size_of_url(url: str) -> int | None:
    """Size in bytes as the server states it, or None."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
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
        length = answer.headers.get("Content-Length")
        start = have if goes_on else 0
        total_bytes = None if length is None else start + int(length)
        strong = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
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


def _open(url: str, headers: dict[str, str]) -> Any:
    return urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": AGENT, **headers}), timeout=TIMEOUT)


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
