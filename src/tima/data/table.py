"""The table of data sets, and `find_data`: from a name or a path to an `ImageSet`."""

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tima.data.image_set import ImageSet
from tima.errors import DataError


@dataclass(frozen=True)
class DataEntry:
    """One embedded data set. Counts and licences are in `assets/data/LICENSES.md`."""

    name: str
    about: str
    licence: str
    domain: str  # "train" for the embedded training set, "zero-shot" for sets no run may train on


EMBEDDED = {
    entry.name: entry
    for entry in (
        DataEntry("pictures", "drawings and emoji with captions: the embedded training set", "MIT and public domain", "train"),
        DataEntry("cifar10", "photographs of animals and vehicles, 32 px, test images only", "none stated", "zero-shot"),
        DataEntry("groceries", "photographs of fruit, vegetables and cartons in shops", "MIT", "zero-shot"),
        DataEntry("fashion-mnist", "grey pictures of clothes, 28 px", "MIT", "zero-shot"),
        DataEntry("quickdraw", "line drawings made in 20 seconds", "CC BY 4.0", "zero-shot"),
    )
}
ZERO_SHOT = [entry.name for entry in EMBEDDED.values() if entry.domain == "zero-shot"]


def known_sets() -> list[DataEntry]:
    """The embedded data sets."""
    return list(EMBEDDED.values())


def embedded_folder() -> Path:
    return Path(str(files("tima") / "assets" / "data"))


def find_data(name: str, split: str | None = None, image_size: int = 224) -> ImageSet:
    """Open a data set by name or by path.

    Args:
        name: an embedded set (`pictures`, `cifar10`, ...), a folder or parquet file, or the name of a folder inside
            one of the folders listed in the environment variable `TIMA_DATA` (separated like `PATH`).
            `name:split` names a split.
        split: which split (`train`, `val`, `test`); without it the evaluation split.
        image_size: pictures are resized and cropped to this many pixels.

    Raises:
        DataError: nothing was found; the message lists every place that was looked at.
    """
    from tima.data.image_folder import looks_like_image_folder, read_image_folder
    from tima.data.parquet import read_parquet

    if split is None and ":" in name and not Path(name).exists():
        name, split = name.rsplit(":", 1)
    roots = [Path(root).expanduser() for root in os.environ.get("TIMA_DATA", "").split(os.pathsep) if root]
    places = [Path(name).expanduser(), *(root / name for root in roots)]
    if name in EMBEDDED:
        places.insert(0, embedded_folder() / name)
    looked = []
    for place in places:
        why = ""
        if place.is_file() and place.suffix == ".parquet":
            return read_parquet(place, None, None, image_size)
        if place.is_dir() and any(any(place.glob(p)) for p in ("*.parquet", "data/*.parquet", "*.arrow", "*/*.arrow")):
            return read_parquet(place, split, place.resolve().name, image_size)
        if place.is_dir() and looks_like_image_folder(place, split):
            return read_image_folder(place, split, None, image_size)
        if place.is_dir():
            under = f" under '{split}'" if split else ""
            why = f" (is there, but holds neither parquet or Arrow files nor one folder of pictures for each class{under})"
        elif place.is_file():
            why = " (is a file, but no .parquet)"
        looked.append(f"{place.absolute()}{why}")
    listed = "\n  ".join(looked)
    raise DataError(
        f"Data set '{name}' was not found. Looked at:\n  {listed}\nEmbedded sets: {', '.join(EMBEDDED)}. "
        "Give a folder, or put its parent into the environment variable TIMA_DATA."
    )
