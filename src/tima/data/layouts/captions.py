"""Retrieval sets as their publishers pack them: Flickr8k, Flickr30k, COCO. Each picture has about five captions."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tima.data.layouts.layout import Contents, Layout, lines_of
from tima.errors import DamagedDataError, DataError

CLASS = "a picture with captions"


def _captioned(paths: list[Path], captions: list[list[str]]) -> Contents:
    return Contents.of_files([CLASS], paths, [0] * len(paths), captions=captions)


def _flickr8k(home: Path, split: str) -> Contents:
    """`Flickr8k.token.txt`: lines `1000268201_693b08cb0e.jpg#0<tab>a caption`; `Flickr_8k.testImages.txt`: file names."""
    captions: dict[str, list[str]] = defaultdict(list)
    for line in lines_of(_first(home, "Flickr8k.token.txt")):
        name, _, text = line.partition("\t")
        captions[name.split("#")[0]].append(text.strip())
    kind = {"val": "dev"}.get(split, split)
    names = lines_of(_first(home, f"Flickr_8k.{kind}Images.txt"))
    return _named(names, captions, _first(home, "Flicker8k_Dataset", "Flickr8k_Dataset", "images"))


def _named(names: list[str], captions: dict[str, list[str]], images: Path) -> Contents:
    if missing := [name for name in names if not captions.get(name)]:
        raise DataError(f"{images}: {missing[0]} has no caption.")
    return _captioned([images / name for name in names], [captions[name] for name in names])


def _karpathy(file: Path, split: str, images: Path) -> Contents:
    """`{"images": [{"filename", "split", "filepath"?, "sentences": [{"raw"}]}]}`."""
    rows = [row for row in _json(file)["images"] if row["split"] == split]
    paths = [images / row.get("filepath", "") / row["filename"] for row in rows]
    return _captioned(paths, [[sentence["raw"].strip() for sentence in row["sentences"]] for row in rows])


def _flickr30k(home: Path, split: str) -> Contents:
    return _karpathy(
        _first(home, "dataset_flickr30k.json"), split, _first(home, "flickr30k-images", "flickr30k_images", "images")
    )


def _coco(home: Path, split: str) -> Contents:
    """Karpathy's split where his file is there; else `annotations/captions_val2014.json` (https://cocodataset.org/#format-data)."""
    if (home / "dataset_coco.json").is_file():
        return _karpathy(home / "dataset_coco.json", split, home)
    if split == "val":
        raise DataError(f"{home / 'dataset_coco.json'} is missing: without it all of val2014 is the split 'test'.")
    file = next(iter(sorted((home / "annotations").glob("captions_val*.json"))))
    content = _json(file)
    captions: dict[int, list[str]] = defaultdict(list)
    for row in content["annotations"]:
        captions[row["image_id"]].append(row["caption"].strip())
    rows: Iterable[dict[str, Any]] = [row for row in content["images"] if captions.get(row["id"])]
    images = _first(home, file.stem.removeprefix("captions_"))
    return _captioned([images / row["file_name"] for row in rows], [captions[row["id"]] for row in rows])


def _first(home: Path, *names: str) -> Path:
    found = next((home / name for name in names if (home / name).exists()), None)
    if found is None:
        raise DataError(f"{home / names[0]} is missing.")
    return found


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedDataError(f"{file} is no readable JSON ({error}). Fetch it again.") from error


LAYOUTS = (
    Layout(
        "flickr8k",
        ("Flickr8k.token.txt",),
        ("flickr8k", "Flickr8k"),
        ("test", "train", "val"),
        _flickr8k,
        "https://hockenmaier.cs.illinois.edu/8k-pictures.html",
    ),
    Layout(
        "flickr30k",
        ("dataset_flickr30k.json",),
        ("flickr30k",),
        ("test", "train", "val"),
        _flickr30k,
        "https://shannon.cs.illinois.edu/DenotationGraph/",
    ),
    Layout(
        "coco", ("annotations/captions_val*.json",), ("coco",), ("test", "val"), _coco, "https://cocodataset.org/#format-data"
    ),
)
