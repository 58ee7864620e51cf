"""Where data sets lie and where downloads go."""

import os
from pathlib import Path


def cache_home() -> Path:
    """`TIMA_CACHE`, else `~/.cache/tima`: indices of shards, shards from URLs, and data sets where `TIMA_DATA` names none."""
    return Path(os.environ.get("TIMA_CACHE") or "~/.cache/tima").expanduser()


def data_roots() -> list[Path]:
    """Folders that hold data sets: those of `TIMA_DATA` (separated like `PATH`), then `data` in the cache."""
    listed = [Path(root).expanduser() for root in os.environ.get("TIMA_DATA", "").split(os.pathsep) if root]
    return [*listed, cache_home() / "data"]


def data_home() -> Path:
    """Where downloads go: the first of `data_roots`."""
    return data_roots()[0]
