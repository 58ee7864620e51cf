"""Files that are either whole or not there: written beside the target, flushed, then renamed over it."""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tima.errors import TimaError

# safetensors and torch.save report a full disk as errors of their own, not as OSError
_DISK_TROUBLE = re.compile(
    r"os error \d+|Os \{ code: \d+|No space left|PytorchStreamWriter|inline_container|iostream error", re.I
)


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `target` when the block ends without an error.

    Raises:
        TimaError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    target = Path(target)
    part: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
        part = Path(name)
        yield part
        _flush(part)
        part.chmod(0o644)
        part.replace(target)
    except Exception as error:
        if reason := _disk_trouble(error, target):
            raise TimaError(f"Could not write {target}: {reason}. What was there before is untouched.") from error
        raise
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: str | Path) -> Iterator[Path]:
    """Like `atomic_path` for a folder: it appears under its name complete or not at all.

    A folder that is there is moved aside for the moment of the exchange. Should the process be killed in just that
    moment, `restore_folder` puts it back; readers that resume call it first.
    """
    target = Path(target)
    part: Path | None = None
    try:
        restore_folder(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
        part.chmod(0o755)
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _flush(file)
        old = _old(target)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.replace(old)
        part.replace(target)
        shutil.rmtree(old, ignore_errors=True)
    except Exception as error:
        if reason := _disk_trouble(error, target):
            raise TimaError(f"Could not write {target}: {reason}. What was there before is untouched.") from error
        raise
    finally:
        restore_folder(target)
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def restore_folder(target: str | Path) -> None:
    """Put back what `atomic_folder` had moved aside when it was killed between its two renames; else do nothing."""
    target = Path(target)
    if not target.exists() and _old(target).is_dir():
        _old(target).replace(target)


def remove_parts(target: str | Path) -> None:
    """Delete what processes that were killed while they wrote `target` left beside it. Nobody may be writing it now."""
    target = Path(target)
    for part in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)


def write_text(target: str | Path, text: str) -> None:
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def safe_name(text: str) -> str:
    """`text` as part of a file's name: whatever is no letter, digit, dash or underscore becomes a dash."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def sha256_json(value: Any) -> str:
    """Hash of the content, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _flush(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _disk_trouble(error: Exception, target: Path) -> str | None:
    """What went wrong with the disk, or None for an error of another kind."""
    if isinstance(error, OSError):
        elsewhere = error.filename is not None and Path(str(error.filename)).parent != target.parent
        return f"{error.strerror or error}" + (f" ({error.filename})" if elsewhere else "")
    if not isinstance(error, TimaError) and _DISK_TROUBLE.search(str(error)):
        return f"the disk is full or cannot be written ({str(error).strip().splitlines()[0]})"
    return None
