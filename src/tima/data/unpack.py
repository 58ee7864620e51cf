"""`unpack`: archives from elsewhere, into one folder and nowhere else.

A member may be a file or a folder below the target. Absolute paths, `..`, links and devices are refused before anything is
written: a link that is followed by a file of its name can write anywhere.
"""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tima._files import atomic_folder, atomic_path
from tima.errors import DamagedDataError, DataError, TimaError

TAR = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
KEPT_FREE = 256 << 20  # bytes of disk that unpacking a file of unknown size leaves to everything else
MAC = "__MACOSX"  # what Apple's zip adds


def is_archive(name: str) -> bool:
    return name.endswith((*TAR, ".zip", ".gz"))


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack a tar (also compressed), zip or gzip file into `folder`; each top-level entry appears there when it is whole.

    Returns:
        The top-level entries.

    Raises:
        DataError: damaged, no archive, or a member that may not be; then nothing is written.
        TimaError: the disk is full.
    """
    if archive.name.endswith(".gz") and not archive.name.endswith(".tar.gz"):
        return [_gunzip(archive, folder)]
    if not archive.name.endswith((*TAR, ".zip")):
        raise DataError(f"{archive}: an archive must end in {', '.join(TAR)}, .zip or .gz.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_folder(folder / f".{archive.name}.unpacked") as part:
            (_unzip if archive.suffix == ".zip" else _untar)(archive, part)
        return _move(folder / f".{archive.name}.unpacked", folder)
    # RuntimeError: encrypted; NotImplementedError, one of its kinds: packed in a way that Python does not know
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, gzip.BadGzipFile, zlib.error, RuntimeError) as error:
        raise DamagedDataError(f"{archive} is damaged or no archive ({error}). Fetch it again.") from error


def _untar(archive: Path, part: Path) -> None:
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
        for member in members:
            kind = None if member.isreg() or member.isdir() else "a link" if member.issym() or member.islnk() else "no file"
            _check(archive, member.name, kind)
        _check_room(archive, (m.size for m in members), part)
        for member in members:
            if member.isreg():
                stream = tar.extractfile(member)
                assert stream is not None
                _write(stream, part / member.name)


def _unzip(archive: Path, part: Path) -> None:
    with zipfile.ZipFile(archive) as held:
        members = held.infolist()
        for info in members:
            _check(archive, info.filename, "a link" if stat.S_ISLNK(info.external_attr >> 16) else None)
        _check_room(archive, (info.file_size for info in members), part)
        for info in members:
            if not info.is_dir() and PurePosixPath(info.filename).parts[0] != MAC:
                with held.open(info) as stream:
                    _write(stream, part / info.filename)


def _check(archive: Path, name: str, kind: str | None) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts[:1] or ("",))[0] or "\0" in name:
        kind = "a path that leads out of the folder"
    if kind is not None:
        raise DataError(f"{archive}: '{name}' is {kind}. Archives of pictures need none, so nothing was unpacked.")


def _check_room(archive: Path, sizes: Iterable[int], part: Path) -> None:
    total, free = sum(sizes), shutil.disk_usage(part).free
    if total > free:
        raise TimaError(f"{archive} unpacks to {total:,} bytes; {part.parent} has room for {free:,}.")


def _write(stream: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        shutil.copyfileobj(stream, file, 1 << 20)


def _gunzip(archive: Path, folder: Path) -> Path:
    target = folder / archive.name.removesuffix(".gz")
    with atomic_path(target) as part:
        try:  # inside, because a damaged file is an OSError, which would read as a disk that cannot be written
            with gzip.open(archive) as stream, part.open("wb") as file:
                while block := stream.read(1 << 20):
                    # gzip does not say its size (its last four bytes are the size modulo 4 GiB, and anybody can write them)
                    if shutil.disk_usage(folder).free < len(block) + KEPT_FREE:
                        raise TimaError(f"{archive} unpacks to more than there is room for in {folder}. Nothing was kept.")
                    file.write(block)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedDataError(f"{archive} is damaged ({error}). Fetch it again.") from error
    return target


def _move(part: Path, folder: Path) -> list[Path]:
    """The entries into the folder; what is there as a folder too is filled up."""
    moved = []
    for entry in sorted(part.iterdir()):
        for file, target in _pairs(entry, folder / entry.name):
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        moved.append(folder / entry.name)
    shutil.rmtree(part)
    return moved


def _pairs(entry: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    if entry.is_file() or not target.exists():
        yield entry, target
        return
    for inner in sorted(entry.iterdir()):
        yield from _pairs(inner, target / inner.name)
