"""Shards as an `ImageSet`: an index in memory, pictures read from their place when their turn comes.

The set is one list of all samples of all shards, so everything else works on it unchanged: the trainer's order is a function of
(seed, epoch) and a resumed run goes on at the exact sample; each process takes its slice of the same list, so that none is
seen twice or left out; loader workers decode. `shard_B` tells the trainer to go through a few shards at a time
(`tima.schedule.batches`), which keeps reading local and the cache of URLs small.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tima.data.download import size_of_url
from tima.data.field import field_sets
from tima.data.image_set import DEFAULT_TEMPLATES, BadImage, ImageSet
from tima.data.wds.places import ShardList, list_shards
from tima.data.wds.shard_cache import local_shard, read_range
from tima.data.wds.tar_index import NO_LABEL, ShardIndex, index_shard, indexed
from tima.errors import DataError

Progress = Callable[[int, int], None]
ATTEMPTS = 30  # to read a shard before a neighbour's download pushes it out of a cache that is smaller than the set


@dataclass(frozen=True)
class Samples:
    """`index -> encoded picture`."""

    shards: tuple[str, ...]
    shard_N: np.ndarray
    offset_N: np.ndarray
    size_N: np.ndarray

    def __call__(self, index: int) -> bytes:
        return read_range(self.shards[self.shard_N[index]], int(self.offset_N[index]), int(self.size_N[index]))


@dataclass(frozen=True)
class SampleNames:
    """`index -> "shard, sample key"`, for messages."""

    shards: tuple[str, ...]
    shard_N: np.ndarray
    key_N: np.ndarray

    def __call__(self, index: int) -> str:
        return f"{self.shards[self.shard_N[index]]}, sample {self.key_N[index].decode(errors='replace')}"


def looks_like_shards(folder: Path) -> bool:
    """CLIP_benchmark's layout, or tar files in a folder or in one for each split."""
    patterns = ("nshards.txt", "*/nshards.txt", "*.tar", "*/*.tar")
    return folder.is_dir() and any(any(folder.glob(pattern)) for pattern in patterns)


def read_shards(name: str, split: str | None = None, image_size: int = 224, progress: Progress | None = None) -> ImageSet:
    """Open shards by a pattern (`PATH/{000..099}.tar`), a folder in CLIP_benchmark's layout, or a URL of either.

    The first opening walks through every shard once, those behind URLs are downloaded for it; the index is kept.

    Args:
        progress: is told how many of how many shards are indexed.

    Raises:
        DataError: no such shards or split, no class names, a label out of range, no usable sample.
    """
    listed = list_shards(name, split)
    if listed.retrieval:
        raise DataError(f"{listed.where} has captions and no classes. It is scored by tima probe retrieval --data {name}")
    indices = _indices(listed, progress)
    entry = field_sets().get(listed.name)
    class_names = listed.lines("classnames.txt")
    if class_names is None:
        raise DataError(
            f"{listed.where}: no class names. Put a classnames.txt (one name a line, in the labels' order) beside the shards."
        )
    kept = [index.label_N != NO_LABEL for index in indices]
    quarantine = _quarantine(listed, indices)
    for shard, index, keep in zip(listed.shards, indices, kept, strict=True):
        quarantine.extend(
            BadImage(f"{shard}, sample {key.decode(errors='replace')}", "no label (.cls) in this sample")
            for key in index.key_N[~keep]
        )
    return ImageSet(
        name=listed.name,
        class_names=class_names,
        label_B=torch.from_numpy(np.concatenate([i.label_N[k] for i, k in zip(indices, kept, strict=True)])),
        image_size=image_size,
        templates=_templates(listed) or (entry.templates if entry else ()) or DEFAULT_TEMPLATES,
        caption_B=_captions(indices, kept),
        quarantine=quarantine,
        **_access(listed, indices, kept),
    )


def read_shard_captions(name: str, split: str | None = None, image_size: int = 224) -> tuple[ImageSet, list[list[str]]]:
    """Pictures and their captions (the lines of each sample's .txt).

    Raises:
        DataError: as `read_shards`; no sample has a caption.
    """
    listed = list_shards(name, split)
    indices = _indices(listed, None)
    kept = [np.array([bool(text) for text in index.captions], dtype=bool) for index in indices]
    texts = [text.splitlines() for index in indices for text in index.captions if text]
    if not texts:
        raise DataError(f"{listed.where}: no sample has a caption (.txt).")
    quarantine = _quarantine(listed, indices)
    for shard, index, keep in zip(listed.shards, indices, kept, strict=True):
        quarantine.extend(
            BadImage(f"{shard}, sample {key.decode(errors='replace')}", "no caption (.txt)") for key in index.key_N[~keep]
        )
    images = ImageSet(
        name=listed.name,
        class_names=["a picture with captions"],
        label_B=torch.zeros(len(texts), dtype=torch.long),
        image_size=image_size,
        quarantine=quarantine,
        **_access(listed, indices, kept),
    )
    return images, texts


def _access(listed: ShardList, indices: list[ShardIndex], kept: list[np.ndarray]) -> dict[str, Any]:
    """`read`, `where` and `shard_B` of the samples that are kept."""
    shards = tuple(listed.shards)
    shard_N = np.concatenate([np.full(int(keep.sum()), i, np.int32) for i, keep in enumerate(kept)])
    offset_N, size_N, key_N = (
        np.concatenate([getattr(index, field)[keep] for index, keep in zip(indices, kept, strict=True)])
        for field in ("offset_N", "size_N", "key_N")
    )
    return {
        "read": Samples(shards, shard_N, offset_N, size_N),
        "where": SampleNames(shards, shard_N, key_N),
        "shard_B": torch.from_numpy(shard_N),
    }


def _indices(listed: ShardList, progress: Progress | None) -> list[ShardIndex]:
    """Every shard's index, several at a time: walking a tar file is mostly waiting."""
    found: list[ShardIndex] = []
    with ThreadPoolExecutor(8) as pool:
        for index in pool.map(_index, listed.shards):
            found.append(index)
            if progress is not None:
                progress(len(found), len(listed.shards))
    return found


def _index(shard: str) -> ShardIndex:
    if "://" in shard:
        size = size_of_url(shard)
        kept = None if size is None else indexed(shard, size)
        if kept is not None:
            return kept
    for _ in range(ATTEMPTS):
        try:
            return index_shard(local_shard(shard), shard)
        except FileNotFoundError:  # a neighbour's download had to make room before this one was read: fetch it again
            if "://" not in shard:
                raise
    raise DataError(f"{shard} is removed again and again to make room for others. Raise TIMA_SHARDS_GB.")


def _quarantine(listed: ShardList, indices: list[ShardIndex]) -> list[BadImage]:
    return [
        BadImage(f"{shard}, sample {key}", why)
        for shard, index in zip(listed.shards, indices, strict=True)
        for key, why in index.bad
    ]


def _captions(indices: list[ShardIndex], kept: list[np.ndarray]) -> list[str] | None:
    texts = [index.captions[i] for index, keep in zip(indices, kept, strict=True) for i in np.flatnonzero(keep)]
    return texts if any(texts) else None


def _templates(listed: ShardList) -> tuple[str, ...]:
    return tuple(line for line in listed.lines("zeroshot_classification_templates.txt") or () if line)
