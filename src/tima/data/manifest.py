"""What lay in a set's folder when it was fetched: sizes and checksums, so that damage that comes later is seen."""

import json
from pathlib import Path

from tima._files import sha256_file, write_json
from tima.errors import DataError

FILE = ".tima-manifest.json"


def write_manifest(folder: Path, sources: list[dict[str, str]]) -> Path:
    """Note every file below `folder` with its size and sha256, and where it all came from."""
    held = {name: [path.stat().st_size, sha256_file(path)] for name, path in _files(folder)}
    write_json(folder / FILE, {"sources": sources, "files": held})
    return folder / FILE


def verify_manifest(folder: Path) -> list[str] | None:
    """What is not as it was noted, in words; None without a manifest. Files that came later are no fault.

    Raises:
        DataError: the manifest cannot be read.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        held: dict[str, tuple[int, str]] = json.loads(file.read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}). Delete it to go without.") from error
    wrong = []
    for name, (size, digest) in held.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is gone")
        elif path.stat().st_size != size:
            wrong.append(f"{name} has {path.stat().st_size:,} bytes, not {size:,}")
        elif sha256_file(path) != digest:
            wrong.append(f"{name} has changed")
    return wrong


def _files(folder: Path) -> list[tuple[str, Path]]:
    found = [(path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()]
    return sorted((name, path) for name, path in found if not any(part.startswith(".") for part in name.split("/")))
