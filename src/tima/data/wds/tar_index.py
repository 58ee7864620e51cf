"""The index of a shard: where each sample's picture lies in the tar file, its label and captions.

Format: https://github.com/webdataset/webdataset#the-webdataset-format. Files that follow each other and agree up to the first
dot of their last path part are one sample: `s0001.webp` with `s0001.cls` (class number) or `s0001.txt` (captions, one a line).
A picture is then read with one seek, so that any sample can be had in any order: exact resume and exact sharing among
processes need nothing else. An index is a few dozen bytes a sample and is kept, so that a shard is walked through once.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tima._files import atomic_path
from tima.data.places import cache_home
from tima.errors import DataError

IMAGES = ("webp", "png", "jpg", "jpeg", "avif", "bmp", "gif", "tif", "tiff", "ppm")
LABELS = ("cls", "json")
JSON_KEYS = ("cls", "label", "class", "class_id")
NO_LABEL = -1
VERSION = 1
LONGEST = 1024  # characters of a name: keys are kept in a table as wide as the longest
LARGEST_LABEL = 2**31 - 1
_NAME = re.compile(r"^((?:.*/)?[^/.]+)\.([^/]+)$")


@dataclass(frozen=True)
class ShardIndex:
    """Samples of one shard, `N` of them, in the order of the file. `bad`: `(key, why)` of samples that cannot be used."""

    key_N: np.ndarray  # bytes
    offset_N: np.ndarray
    size_N: np.ndarray
    label_N: np.ndarray
    captions: list[str]
    bad: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.offset_N)


@dataclass
class _Sample:
    key: str
    place: tuple[int, int] | None = None
    label: int = NO_LABEL
    caption: str = ""
    why: str = ""


def index_shard(file: Path, name: str) -> ShardIndex:
    """The shard's index: from the cache when the file is unchanged, else made and kept.

    Args:
        file: where the shard lies here.
        name: path or URL that it is known by.

    Raises:
        DataError: no tar file, or a compressed one.
    """
    stat = file.stat()
    state = f"{VERSION} {name} {stat.st_size}" + ("" if "://" in name else f" {stat.st_mtime_ns}")
    kept = _kept(state)
    try:
        return _load(kept)
    except Exception:  # not there, or cut off: it is made again
        pass
    made = _walk(file, name)
    try:
        with atomic_path(kept) as part, part.open("wb") as stream:
            _save(stream, made)
    except Exception:  # a cache that cannot be written costs time and nothing else
        pass
    return made


def indexed(name: str, size: int) -> ShardIndex | None:
    """The kept index of a shard from a URL, without the shard."""
    try:
        return _load(_kept(f"{VERSION} {name} {size}"))
    except Exception:
        return None


def _kept(state: str) -> Path:
    return cache_home() / "index" / f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.npz"


def _walk(file: Path, name: str) -> ShardIndex:
    samples: list[_Sample] = []
    bad: list[tuple[str, str]] = []
    end = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in _members(tar, bad):
                name_in_tar = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                found = _NAME.match(name_in_tar) if len(name_in_tar) <= LONGEST else None
                if not member.isreg() or member.issparse() or found is None or name_in_tar.startswith("__"):
                    continue
                key, ending = found[1], found[2].lower()
                if not samples or samples[-1].key != key:
                    samples.append(_Sample(key))
                _add(samples[-1], ending, member, tar, end)
    except tarfile.ReadError as error:
        raise DataError(
            f"{name} is no plain tar file ({error}). Shards are read in place: unpack a compressed one (gunzip), fetch a "
            "damaged one again."
        ) from error
    good = [s for s in samples if s.place is not None and not s.why]
    bad.extend((s.key, s.why or "no picture in this sample") for s in samples if s.place is None or s.why)
    return ShardIndex(
        np.array([s.key.encode() for s in good], dtype=np.bytes_),
        np.array([s.place[0] for s in good if s.place], dtype=np.int64),
        np.array([s.place[1] for s in good if s.place], dtype=np.int64),
        np.array([s.label for s in good], dtype=np.int64),
        [s.caption for s in good],
        bad,
    )


def _members(tar: tarfile.TarFile, bad: list[tuple[str, str]]) -> Iterator[tarfile.TarInfo]:
    """The members; a file that is cut off ends the walk and is said, what came before stays usable."""
    first = True
    while True:
        try:
            member = tar.next()
        except tarfile.ReadError as error:
            if first:
                raise
            bad.append(("(end of the shard)", f"the tar file is damaged or cut off there: {error}"))
            return
        if member is None:
            if not _ends_here(tar):
                bad.append(("(end of the shard)", "the tar file has no end mark: it is damaged or cut off there"))
            return
        first = False
        yield member
        tar.members.clear()  # type: ignore[attr-defined]  # else every header stays in memory


def _ends_here(tar: tarfile.TarFile) -> bool:
    """A block of zeros follows. `tarfile` takes a cut-off or damaged header for the end, too, and says nothing."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(tarfile.BLOCKSIZE)
    return len(block) == tarfile.BLOCKSIZE and not any(block)


def _add(sample: _Sample, ending: str, member: tarfile.TarInfo, tar: tarfile.TarFile, end: int) -> None:
    if ending in IMAGES:
        if member.offset_data + member.size > end:
            sample.why = "the picture is cut off with the end of the shard"
        sample.place = (member.offset_data, member.size)
    elif ending in LABELS or ending == "txt":
        stream = tar.extractfile(member)
        content = b"" if stream is None else stream.read(1 << 20)
        if ending == "txt":
            sample.caption = content.decode("utf-8", "replace").strip()
        else:
            _label(sample, ending, content)


def _label(sample: _Sample, ending: str, content: bytes) -> None:
    if ending == "cls":
        try:
            label = int(content)
        except ValueError:
            label = LARGEST_LABEL + 1
        if abs(label) > LARGEST_LABEL:
            sample.why = f"the label is {content[:30]!r}, not a class number"
        else:
            sample.label = label
        return
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        sample.why = "the .json file cannot be read"
        return
    if not isinstance(values, dict):
        return
    number = next((values[key] for key in JSON_KEYS if isinstance(values.get(key), int)), None)
    if number is not None and abs(number) > LARGEST_LABEL:
        sample.why = "the label in the .json file is no class number"
    elif number is not None and sample.label == NO_LABEL:
        sample.label = int(number)
    if isinstance(values.get("caption"), str) and not sample.caption:
        sample.caption = values["caption"].strip()


def _save(stream: io.BufferedWriter, index: ShardIndex) -> None:
    np.savez(
        stream,
        key=index.key_N,
        offset=index.offset_N,
        size=index.size_N,
        label=index.label_N,
        text=np.frombuffer(json.dumps([index.captions if any(index.captions) else [], index.bad]).encode(), np.uint8),
    )


def _load(file: Path) -> ShardIndex:
    with np.load(file, allow_pickle=False) as held:
        captions, bad = json.loads(held["text"].tobytes())
        captions = captions or [""] * len(held["offset"])
        return ShardIndex(held["key"], held["offset"], held["size"], held["label"], captions, [(k, w) for k, w in bad])
