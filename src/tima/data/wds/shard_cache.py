"""Shards behind URLs, kept on disk up to a limit: the ones not used for longest go first.

`TIMA_CACHE` says where (`shards` in it), `TIMA_SHARDS_GB` how much (100). Several processes share the folder: each shard is
downloaded by one of them while the others wait for it, and one that another process has removed is fetched again.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tima.data.download import download
from tima.data.places import cache_home
from tima.errors import DataError

_touched: dict[str, float] = {}
TOUCH_EVERY = 60.0  # seconds: the order of use need not be exact


def local_shard(shard: str) -> Path:
    """The file of a shard: its path, or where the download of its URL lies.

    Raises:
        DataError: it cannot be downloaded.
    """
    if "://" not in shard:
        return Path(shard)
    target = shard_path(shard)
    if target.is_file():
        _touch(target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_suffix(".lock")):
        if not target.is_file():
            download(shard, target)
            _make_room(target)
    return target


def shard_path(url: str) -> Path:
    """Where the shard of a URL lies when it is here."""
    return cache_home() / "shards" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.tar"


def read_range(shard: str, offset: int, size: int) -> bytes:
    """Bytes of a shard.

    Raises:
        OSError, ValueError: the shard is not there or ends before.
    """
    for attempt in (0, 1, 2):
        try:
            with local_shard(shard).open("rb") as file:
                data = os.pread(file.fileno(), size, offset)
            break
        except FileNotFoundError:  # removed to make room between two lines of ours
            if "://" not in shard or attempt == 2:
                raise
    if len(data) != size:
        raise ValueError(f"{shard} ends {size - len(data)} bytes too early")
    return data


def limit_bytes() -> int:
    text = os.environ.get("TIMA_SHARDS_GB", "100")
    try:
        limit = float(text)
    except ValueError:
        limit = -1
    if limit <= 0:
        raise DataError(f"TIMA_SHARDS_GB is {text!r}; it must be a number of gigabytes above 0, for example 50.")
    return int(limit * 1e9)


def _touch(file: Path) -> None:
    now = time.monotonic()
    if now - _touched.get(file.name, -TOUCH_EVERY) >= TOUCH_EVERY:
        _touched[file.name] = now
        with suppress(FileNotFoundError):
            os.utime(file)


def _make_room(keep: Path) -> None:
    """Remove what was not used for longest until the limit is kept. The newest stays even when it alone is larger."""
    held = []
    for path in keep.parent.glob("*.tar"):
        try:
            stat = path.stat()
        except FileNotFoundError:  # another process makes room too
            continue
        held.append((stat.st_mtime, stat.st_size, path))
    total, limit = sum(size for _, size, _ in held), limit_bytes()
    for _, size, path in sorted(held):
        if total <= limit:
            return
        if path != keep:
            path.unlink(missing_ok=True)
            total -= size


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One process at a time. Without file locks (Windows) two may download the same shard, which is only slower."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
