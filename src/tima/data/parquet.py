"""Reader for parquet files in the Hugging Face `datasets` layout (an `image` struct or bytes column, a ClassLabel).

Layout: https://huggingface.co/docs/datasets/image_dataset. `classnames.txt` and
`zeroshot_classification_templates.txt` beside the files, where present, take precedence (CLIP_benchmark's layout).
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tima.data.image_set import DEFAULT_TEMPLATES, ImageSet
from tima.errors import DataError

LABEL_COLUMNS = ("label", "labels", "fine_label", "cls", "class")
IMAGE_COLUMNS = ("image", "img", "jpg", "png", "webp")


def read_parquet(folder: Path, split: str | None = None, name: str | None = None, image_size: int = 224) -> ImageSet:
    """Read a folder of parquet files, or one file.

    Args:
        folder: a parquet file, or a folder with `<split>*.parquet` in it or in its `data/`.
        split: which split; without it the only one there, or test, val, validation, train in that order.

    Raises:
        DataError: no such split, no image or label column, no class names, a label out of range.
    """
    files, split = find_files(folder, split)
    try:
        table = pa.concat_tables([pq.read_table(file) for file in files], promote_options="default")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{files[0]}: not a readable parquet file ({error}).") from error
    root = folder if folder.is_dir() else folder.parent
    where = f"{root} ({split})"
    image_column = _pick(table, IMAGE_COLUMNS, "image", where)
    label_column = _pick(table, LABEL_COLUMNS, "label", where)
    label_values = table.column(label_column).to_pylist()
    if None in label_values:
        raise DataError(f"{where}, row {label_values.index(None)}: the label is missing.")
    images = table.column(image_column)
    class_names = _lines(root / "classnames.txt") or _names_in_metadata(table, label_column)
    if class_names is None:
        raise DataError(f"{where}: no class names. Put a classnames.txt (one name a line) into {root}.")
    captions = table.column("caption").to_pylist() if "caption" in table.column_names else None

    def read(index: int) -> bytes:
        cell = images[index].as_py()
        data = cell["bytes"] if isinstance(cell, dict) else cell
        if data is None:
            raise ValueError("the row holds no image bytes")
        return bytes(data)

    return ImageSet(
        name=name or root.name,
        class_names=class_names,
        label_B=torch.tensor(label_values, dtype=torch.long),
        read=read,
        where=lambda index: f"{where}, row {index}",
        image_size=image_size,
        templates=tuple(_lines(root / "zeroshot_classification_templates.txt") or DEFAULT_TEMPLATES),
        caption_B=captions,
    )


def find_files(folder: Path, split: str | None) -> tuple[list[Path], str]:
    """Parquet files of a split, sorted, and the split's name."""
    if folder.is_file():
        return [folder], folder.stem.split("-")[0]
    found: dict[str, list[Path]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        found.setdefault(file.stem.split("-")[0], []).append(file)
    if not found:
        raise DataError(f"No parquet file in {folder} or {folder / 'data'}.")
    if split is None:
        split = next((s for s in ("test", "val", "validation", "train") if s in found), sorted(found)[0])
    if split not in found:
        raise DataError(f"{folder} has no split '{split}'; it has: {', '.join(sorted(found))}.")
    return found[split], split


def _pick(table: pa.Table, candidates: tuple[str, ...], kind: str, where: str) -> str:
    for column in candidates:
        if column in table.column_names:
            return column
    raise DataError(f"{where}: no {kind} column. Looked for {', '.join(candidates)}; found {', '.join(table.column_names)}.")


def _names_in_metadata(table: pa.Table, label_column: str) -> list[str] | None:
    raw = (table.schema.metadata or {}).get(b"huggingface")
    feature: Any = json.loads(raw)["info"]["features"].get(label_column, {}) if raw else {}
    return feature.get("names")


def _lines(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
