"""`CaptionSet`: pictures with one or several captions each, from parquet or CSV."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tima.data.image_set import ImageSet, Reindexed, sample_indices
from tima.data.parquet import IMAGE_COLUMNS, Cells, find_files
from tima.data.retrieval import find_captions
from tima.errors import DataError

CAPTION_COLUMNS = ("captions", "caption")


@dataclass(frozen=True)
class CaptionSet:
    """Pictures and, for each, its captions."""

    images: ImageSet
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Sequence[int]) -> "CaptionSet":
        return CaptionSet(self.images.subset(indices), [self.captions[int(i)] for i in indices])

    def sampled(self, n: int | None, seed: int) -> tuple["CaptionSet", Tensor]:
        """`n` pictures with all their captions, drawn by `seed`, in index order (all for None), and each one's index in the
        whole set, which random draws go by."""
        if n is None or n >= len(self):
            return self, torch.arange(len(self))
        if n < 1:
            raise DataError(f"A sample of {n} pictures is no sample. Ask for at least one.")
        index_N = sample_indices(len(self), n, seed)
        return self.subset(index_N.tolist()), index_N


def read_captions(path: str | Path, image_size: int, split: str | None = None) -> CaptionSet:
    """Open a parquet file or folder (`image` and `captions` or `caption`), or a CSV of `path,caption` lines; a retrieval set of
    the field by name or folder, or shards (`tima.data.retrieval`).

    A picture that comes in several rows is one picture with several captions: else it would be its own rival.

    Raises:
        DataError: not there, unreadable, no such columns, a picture without a caption.
    """
    found = find_captions(str(path), split, image_size)
    if found is not None:
        return CaptionSet(*found)
    path = Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist. Give a parquet file, a folder with parquet files, or a CSV of path,caption.")
    keys, sources, captions = _from_csv(path) if path.suffix.lower() == ".csv" else _from_parquet(path, split)
    first: dict[Any, int] = {}
    kept: list[int] = []
    grouped: list[list[str]] = []
    for row, (key, texts) in enumerate(zip(keys, captions, strict=True)):
        texts = [" ".join(text.split()) for text in texts if text and text.strip()]
        if not texts:
            raise DataError(f"{path}, row {row}: this picture has no caption.")
        if key not in first:
            first[key] = len(kept)
            kept.append(row)
            grouped.append([])
        group = grouped[first[key]]
        group.extend(text for text in texts if text not in group)
    if not kept:
        raise DataError(f"{path} holds no pictures.")
    name = path.stem if path.is_file() else path.resolve().name
    images = ImageSet(
        name=name,
        class_names=["a picture with captions"],
        label_B=torch.zeros(len(kept), dtype=torch.long),
        read=Reindexed(sources, kept),
        where=lambda i: f"{path}, row {kept[i]}",
        image_size=image_size,
    )
    return CaptionSet(images, grouped)


def _from_csv(path: Path) -> tuple[list[Any], Any, list[list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}.") from error
    if not rows or not {"path", "caption"} <= set(rows[0]):
        raise DataError(f"{path}: a CSV of captions begins with the line 'path,caption' and has a picture's caption a line.")
    files = [path.parent / (row["path"] or "").strip() for row in rows]
    return list(files), files.__getitem__, [[row["caption"] or ""] for row in rows]


def _from_parquet(path: Path, split: str | None) -> tuple[list[Any], Any, list[list[str]]]:
    files, _ = find_files(path, split)
    try:
        table = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable parquet ({error}).") from error
    columns = table.column_names
    image = next((c for c in IMAGE_COLUMNS if c in columns), None)
    caption = next((c for c in CAPTION_COLUMNS if c in columns), None)
    if image is None or caption is None:
        raise DataError(f"{path}: needs an image column and 'captions' or 'caption'; found {', '.join(columns)}.")
    cells = Cells(table.column(image))
    keys: list[Any] = []
    for row in range(len(table)):
        try:
            keys.append(cells(row))
        except ValueError:  # no picture in the row: read again later, and reported as unreadable then
            keys.append(row)
    texts = [[v] if isinstance(v, str) else list(v or ()) for v in table.column(caption).to_pylist()]
    return keys, cells, texts
