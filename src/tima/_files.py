"""Files that are either whole or not there: written beside the target, flushed, then renamed over it."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tima.errors import TimaError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `target` when the block ends without an error.

    Raises:
        TimaError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(target)
    except OSError as error:
        raise TimaError(f"Could not write {target}: {error.strerror or error}. What was there before is untouched.") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Like `atomic_path` for a folder: it appears under its name complete or not at all."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    part.chmod(0o755)
    try:
        yield part
        old = target.with_name(f".{target.name}.old")
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.replace(old)
        part.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise TimaError(f"Could not write {target}: {error.strerror or error}. What was there before is untouched.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(target: str | Path, text: str) -> None:
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
