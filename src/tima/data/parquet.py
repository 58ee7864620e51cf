"""Reader for Hugging Face `datasets` folders: parquet files, or the Arrow files that `save_to_disk` writes.

An `image` struct or bytes column and a ClassLabel, as in https://huggingface.co/docs/datasets/image_dataset.
`classnames.txt` and `zeroshot_classification_templates.txt` beside the files, where present, take precedence
(CLIP_benchmark's layout).
"""

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tima.data.image_set import DEFAULT_TEMPLATES, ImageSet
from tima.data.text_files import read_class_names, read_templates
from tima.errors import DamagedDataError, DataError

LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class")
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")


def read_parquet(folder: Path, split: str | None = None, name: str | None = None, image_size: int = 224) -> ImageSet:
    """Read a folder of parquet files, or one file.

    Args:
        folder: a parquet file, or a folder with `<split>*.parquet` in it or in its `data/`, or `*.arrow` in it or in
            its `<split>/`.
        split: which split; without it the only one there, or test, val, validation, train in that order.

    Raises:
        DataError: no such split, an unreadable file, no image or label column, no class names, a label missing or out of range.
    """
    files, split = find_files(folder, split)
    tables = [_read(file) for file in files]
    rows = Rows(files, list(accumulate(len(table) for table in tables)))
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise DataError(f"{files[0]} and the files beside it have different columns ({error}).") from error
    root = folder if folder.is_dir() else folder.parent
    where = f"{root} ({split})"
    image_column = _pick(table, IMAGE_COLUMNS, "image", where)
    label_column = _pick(table, LABEL_COLUMNS, "label", where)
    labels = _labels(table.column(label_column).to_pylist(), rows)
    names_in_file = _names_in_metadata(table, label_column)
    class_names = read_class_names(root / "classnames.txt") or names_in_file
    if class_names is None:
        raise DataError(f"{where}: no class names. Put a classnames.txt (one name a line) into {root}.")
    if names_in_file and len(names_in_file) != len(class_names):
        raise DataError(
            f"{root / 'classnames.txt'} has {len(class_names)} names, the parquet file's own list {len(names_in_file)}. "
            "They must name the same classes in the same order."
        )
    return ImageSet(
        name=name or root.name,
        class_names=class_names,
        label_B=torch.tensor(labels, dtype=torch.long),
        read=Cells(table.column(image_column)),
        where=rows,
        image_size=image_size,
        templates=read_templates(root) or DEFAULT_TEMPLATES,
        caption_B=table.column("caption").to_pylist() if "caption" in table.column_names else None,
    )


@dataclass(frozen=True)
class Cells:
    """`index -> encoded picture`, or the path of its file where the table holds only that."""

    column: pa.ChunkedArray

    def __call__(self, index: int) -> bytes | Path:
        cell = self.column[index].as_py()
        data = cell["bytes"] if isinstance(cell, dict) else cell
        if data is None and isinstance(cell, dict) and cell.get("path"):
            return Path(cell["path"])
        if not isinstance(data, bytes) or not data:
            raise ValueError("the row holds no image bytes")
        return data


@dataclass(frozen=True)
class Rows:
    """`index -> "file, row"`, for messages; rows count from 0 in each file."""

    files: list[Path]
    ends: list[int]

    def __call__(self, index: int) -> str:
        file = bisect_right(self.ends, index)
        return f"{self.files[file]}, row {index - (self.ends[file - 1] if file else 0)}"


def find_files(folder: Path, split: str | None) -> tuple[list[Path], str]:
    """Parquet or Arrow files of a split, sorted, and the split's name."""
    if folder.is_file():
        return [folder], folder.stem.split("-")[0]
    found: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*/*.arrow")):  # a DatasetDict: a folder a split
        found.setdefault(file.parent.name, []).append(file)
    if single := sorted(folder.glob("*.arrow")):  # a Dataset: it does not know which split it is
        return single, split or "all"
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        found.setdefault(file.stem.split("-")[0], []).append(file)
    if not found:
        raise DataError(f"No parquet or Arrow file in {folder} or {folder / 'data'}.")
    if split is None:
        split = next((s for s in ("test", "val", "validation", "train") if s in found), sorted(found)[0])
    if split not in found:
        raise DataError(f"{folder} has no split '{split}'; it has: {', '.join(sorted(found))}.")
    return found[split], split


def _read(file: Path) -> pa.Table:
    try:
        if file.suffix == ".arrow":
            with pa.memory_map(str(file)) as source:
                return pa.ipc.open_stream(source).read_all()
        return pq.read_table(file, partitioning=None)  # folders named like key=value are part of the path, not columns
    except (pa.ArrowException, OSError) as error:
        raise DamagedDataError(f"{file}: not a readable {file.suffix[1:]} file ({error}).") from error


def _labels(values: Sequence[Any], rows: Rows) -> list[int]:
    for index, value in enumerate(values):
        if value is None:
            raise DataError(f"{rows(index)}: the label is missing.")
        if not isinstance(value, int):
            raise DataError(f"{rows(index)}: the label is {value!r}; labels must be class numbers, counted from 0.")
    return list(values)


def _pick(table: pa.Table, candidates: tuple[str, ...], kind: str, where: str) -> str:
    for column in candidates:
        if column in table.column_names:
            return column
    raise DataError(f"{where}: no {kind} column. Looked for {', '.join(candidates)}; found {', '.join(table.column_names)}.")


def _names_in_metadata(table: pa.Table, label_column: str) -> list[str] | None:
    """The ClassLabel's names in the `datasets` library's schema metadata, None where there are none."""
    try:
        info: Any = json.loads((table.schema.metadata or {}).get(b"huggingface") or b"{}")
        return list(info["info"]["features"][label_column]["names"])
    except (ValueError, KeyError, TypeError):
        return None
