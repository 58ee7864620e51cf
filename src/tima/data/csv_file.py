"""Reader for a CSV of pictures: `path,label`, with `caption` and `split` columns where wanted.

Paths are relative to the CSV's folder. Labels are class names, or class numbers with a `classnames.txt` beside the file.
"""

import csv
from pathlib import Path

import torch

from tima.data.image_set import DEFAULT_TEMPLATES, ImageSet, Reindexed
from tima.data.text_files import read_class_names, read_templates
from tima.errors import DataError


def read_csv(file: Path, split: str | None = None, image_size: int = 224) -> ImageSet:
    """Open a CSV file whose first line names the columns.

    Raises:
        DataError: unreadable, no `path` or `label` column, a line without one, a number without a name, no such split.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = list(enumerate(reader, start=2))
            columns = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a CSV file: {error}.") from error
    if {"path", "caption"} <= set(columns) and "label" not in columns:
        raise DataError(f"{file} has captions and no labels. It is scored by tima probe retrieval --data {file}")
    if not {"path", "label"} <= set(columns):
        raise DataError(
            f"{file}: the first line must name the columns path and label; it names: {', '.join(columns) or 'nothing'}."
        )
    if "split" in columns:
        rows = _of_split(file, rows, split)
    elif split not in (None, "train", "all"):
        raise DataError(f"{file} has no column 'split', so no split '{split}'.")
    for line, row in rows:
        if not (row["path"] or "").strip() or not (row["label"] or "").strip():
            raise DataError(f"{file}, line {line}: a path and a label are needed.")
    texts = [row["label"].strip() for _, row in rows]
    names = read_class_names(file.parent / "classnames.txt")
    if names is None:
        if texts and all(text.isdigit() for text in texts):
            raise DataError(f"{file}: the labels are numbers. Put a classnames.txt (one name a line) into {file.parent}.")
        names = sorted(set(texts))
    number = {name: label for label, name in enumerate(names)}
    labels: list[int] = []
    for (line, _), text in zip(rows, texts, strict=True):
        if text not in number and not text.isdigit():
            raise DataError(f"{file}, line {line}: '{text}' is no line of {file.parent / 'classnames.txt'}.")
        labels.append(number[text] if text in number else int(text))
    paths = [file.parent / row["path"].strip() for _, row in rows]
    return ImageSet(
        name=file.stem,
        class_names=names,
        label_B=torch.tensor(labels, dtype=torch.long),
        read=paths.__getitem__,
        where=Reindexed(str, paths),
        image_size=image_size,
        templates=read_templates(file.parent) or DEFAULT_TEMPLATES,
        caption_B=[row["caption"] or "" for _, row in rows] if "caption" in columns else None,
    )


def _of_split(file: Path, rows: list[tuple[int, dict[str, str]]], split: str | None) -> list[tuple[int, dict[str, str]]]:
    there = list(dict.fromkeys((row["split"] or "").strip() for _, row in rows))
    chosen = split or next((s for s in ("test", "val", "validation", "train") if s in there), None)
    if chosen not in there:
        raise DataError(f"{file} has no split '{chosen}'; it has: {', '.join(there)}.")
    return [(line, row) for line, row in rows if (row["split"] or "").strip() == chosen]
