"""Data sets of the Hugging Face hub, or saved by its library: `hf:org/name`, `hf:org/name@config:split`, `hf:FOLDER`.

Through the `datasets` library, which keeps tables memory-mapped: pictures are read when their turn comes. It runs no code of a
repository (https://huggingface.co/docs/datasets/loading).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tima.data.field import field_sets
from tima.data.image_set import DEFAULT_TEMPLATES, ImageSet, Reindexed
from tima.data.names import set_name
from tima.data.parquet import IMAGE_COLUMNS, LABEL_COLUMNS
from tima.data.text_files import read_class_names, read_templates
from tima.errors import DataError

EVALUATED = ("test", "validation", "valid", "val", "train")
SAME = {"val": ("val", "validation", "valid"), "validation": ("validation", "val", "valid")}
CAPTIONS = ("caption", "captions", "sentids", "text")


@dataclass(frozen=True)
class HubCells:
    """`index -> encoded picture`, or the path of its file where the table holds only that."""

    table: Any
    column: str

    def __call__(self, index: int) -> bytes | Path:
        cell = self.table[index][self.column]
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if data:
            return bytes(data)
        if path:
            return Path(path)
        raise ValueError("the row holds no image")


def read_hub(place: str, split: str | None = None, image_size: int = 224) -> ImageSet:
    """Open a set of the hub by `org/name`, with `@config` where it has several, or a folder that `save_to_disk` wrote.

    Raises:
        DataError: the library is missing, the set or the split is not there, no image or label column, no class names.
    """
    table, split, where = _open(place, split)
    image = _pick(table, IMAGE_COLUMNS, "image", where)
    label = _pick(table, LABEL_COLUMNS, "label", where)
    labels, class_names = _labels(table, label, where)
    folder = Path(place)
    if folder.is_dir():
        class_names = read_class_names(folder / "classnames.txt") or class_names
    if not class_names:
        raise DataError(
            f"{where}: column '{label}' holds numbers without names. Save it to a folder and put a classnames.txt there."
        )
    name = set_name(f"hf:{place}")
    entry = field_sets().get(name)
    return ImageSet(
        name=name,
        class_names=class_names,
        label_B=torch.tensor(labels, dtype=torch.long),
        read=HubCells(table, image),
        where=Reindexed(f"{where}, row {{}}".format, range(len(labels))),
        image_size=image_size,
        templates=(read_templates(folder) if folder.is_dir() else None)
        or (entry.templates if entry else ())
        or DEFAULT_TEMPLATES,
    )


def _open(place: str, split: str | None) -> tuple[Any, str, str]:
    """The table with encoded pictures, the split's name, and what to call both in messages."""
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise DataError('Sets of the Hugging Face hub need the data extra: pip install "tima[data]".') from error
    name, _, config = place.partition("@")
    folder = Path(name).expanduser()
    try:
        if folder.is_dir() and any((folder / f).is_file() for f in ("dataset_dict.json", "state.json")):
            held = datasets.load_from_disk(str(folder))
            there = list(held) if isinstance(held, datasets.DatasetDict) else ["all"]
            chosen = _choose(there, split, name)
            table = held[chosen] if isinstance(held, datasets.DatasetDict) else held
        else:
            source = str(folder) if folder.is_dir() else name
            there = datasets.get_dataset_split_names(source, config or None)
            chosen = _choose(there, split, name)
            table = datasets.load_dataset(source, config or None, split=chosen)
    except DataError:
        raise
    except Exception as error:  # the library raises many kinds: not there, gated, offline, a config needed
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"hf:{place} cannot be opened: {reason} Is the name right, is there a network, have its terms been accepted "
            "(huggingface-cli login)? A set with several configurations needs one: hf:org/name@config."
        ) from error
    for column, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return table, chosen, f"hf:{place} ({chosen})"


def _choose(there: list[str], split: str | None, name: str) -> str:
    if split is None:
        return next((s for s in EVALUATED if s in there), there[0])
    if there == ["all"] and split == "train":  # a single table does not know which split it is
        return "all"
    found = next((s for s in SAME.get(split, (split,)) if s in there), None)
    if found is None:
        raise DataError(f"hf:{name} has no split '{split}'; it has: {', '.join(there)}.")
    return found


def _pick(table: Any, candidates: tuple[str, ...], kind: str, where: str) -> str:
    for column in candidates:
        if column in table.column_names:
            return column
    hint = ""
    if kind == "label" and any(c in table.column_names for c in CAPTIONS):
        hint = " A set of captions is scored by tima probe retrieval."
    raise DataError(
        f"{where}: no {kind} column. Looked for {', '.join(candidates)}; found {', '.join(table.column_names)}.{hint}"
    )


def _labels(table: Any, column: str, where: str) -> tuple[list[int], list[str]]:
    """Class numbers and names: ClassLabel's, or the texts themselves, sorted."""
    values = table.with_format("arrow")[:][column].to_pylist() if len(table) else []
    names = getattr(table.features[column], "names", None)
    if (missing := next((i for i, value in enumerate(values) if value is None), None)) is not None:
        raise DataError(f"{where}, row {missing}: the label is missing.")
    if values and isinstance(values[0], str):
        names = sorted(set(values))
        number = {text: label for label, text in enumerate(names)}
        values = [number[value] for value in values]
    if not all(isinstance(value, int) for value in values):
        raise DataError(f"{where}: column '{column}' must hold class numbers or class names.")
    return values, list(names or [])
