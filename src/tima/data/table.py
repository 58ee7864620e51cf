"""The embedded data sets, and `find_data`: from a name or a path to an `ImageSet`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from tima.data.field import FieldEntry, field_sets, sixteen
from tima.data.image_set import DEFAULT_TEMPLATES, ImageSet
from tima.data.names import parse_name, set_name
from tima.data.places import data_home, data_roots
from tima.errors import MissingDataError


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


def licence_of(name: str) -> str | None:
    """What the tables say of the licence of a set, by the name it was asked for; None where they say nothing.

    Anybody's folder may be called `pictures` or `dtd`, so a path says nothing; CLIP_benchmark's `wds_...` and a hub's full
    name do.
    """
    scheme, place, _ = parse_name(name)
    if scheme == "hf":
        entry = next((e for e in field_sets().values() if e.hub == place.partition("@")[0]), None)
        return entry.licence if entry else None
    if scheme == "wds" and "wds_" in place:
        place = set_name(name)
    found = EMBEDDED.get(place) or field_sets().get(place)
    return found.licence if found else None


def embedded_folder() -> Path:
    return Path(str(files("tima") / "assets" / "data"))


def expand_sets(names: Sequence[str]) -> list[str]:
    """`zero-shot` as the embedded sets that no run may train on, `16` as the field's sixteen; other names as they are."""
    groups = {"zero-shot": ZERO_SHOT, "16": sixteen()}
    return list(dict.fromkeys(n for name in names for n in groups.get(name, [name])))


def places_of(name: str) -> list[Path]:
    """Where a set of this name may lie, in the order in which it is looked for."""
    entry = field_sets().get(name)
    folders = entry.places if entry else (name,)
    embedded = [embedded_folder() / name] if name in EMBEDDED else []
    return [*embedded, Path(name).expanduser(), *(root / folder for root in data_roots() for folder in folders)]


def find_data(name: str, split: str | None = None, image_size: int = 224) -> ImageSet:
    """Open a data set by name or by path.

    Args:
        name: an embedded set (`pictures`, `cifar10`, ...); a set of the field (`food101`, ...; `tima.data.field`); a folder in
            one of the layouts that are read (docs/data.md), a parquet, CSV or tar file; or the name of a folder inside one of
            those listed in the environment variable `TIMA_DATA` (separated like `PATH`). `wds:PLACE` are WebDataset shards,
            `hf:NAME` is a set of the Hugging Face hub. `name:split` names a split.
        split: which split (`train`, `val`, `test`); without it the evaluation split.
        image_size: pictures are resized and cropped to this many pixels.

    Raises:
        MissingDataError: nothing was found; the message lists every place looked at, and how to get a set of the field.
    """
    scheme, place, split = parse_name(name, split)
    if scheme == "hf":
        from tima.data.hub import read_hub

        return read_hub(place, split, image_size)
    if scheme == "wds":
        from tima.data.wds import read_shards

        return read_shards(place, split, image_size)
    entry = field_sets().get(place)
    looked = []
    for path in places_of(place):
        found = open_place(path, split, image_size)
        if isinstance(found, ImageSet):
            return _as_entry(found, entry)
        looked.append(f"{path.absolute()}{found}")
    listed = "\n  ".join(looked)
    if entry is not None:
        indented = entry.how(str(data_home())).replace("\n", "\n  ")
        raise MissingDataError(f"{entry.title} is not here. Looked at:\n  {listed}\nHow to get it:\n  {indented}")
    raise MissingDataError(
        f"Data set '{place}' was not found. Looked at:\n  {listed}\nEmbedded sets: {', '.join(EMBEDDED)}. "
        f"Sets of the field: {', '.join(field_sets())}. "
        "Give a folder, or put its parent into the environment variable TIMA_DATA."
    )


def open_place(place: Path, split: str | None, image_size: int) -> ImageSet | str:
    """The set at a path, or why it holds none (empty when nothing is there).

    Raises:
        DataError: it holds one that cannot be read.
    """
    from tima.data.csv_file import read_csv
    from tima.data.image_folder import looks_like_image_folder, read_image_folder
    from tima.data.layouts import recognise
    from tima.data.parquet import read_parquet
    from tima.data.wds import looks_like_shards, read_shards

    if place.is_file():
        if place.suffix == ".parquet":
            return read_parquet(place, None, None, image_size)
        if place.suffix == ".csv":
            return read_csv(place, split, image_size)
        if place.suffix == ".tar":
            return read_shards(str(place), split, image_size)
        return " (is a file, but no .parquet, .csv or .tar)"
    if not place.is_dir():
        return ""
    if any(any(place.glob(pattern)) for pattern in ("*.parquet", "data/*.parquet", "*.arrow", "*/*.arrow")):
        return read_parquet(place, split, place.resolve().name, image_size)
    if any(any(place.glob(pattern)) for pattern in ("nshards.txt", "*/nshards.txt")):
        return read_shards(str(place), split, image_size)
    if known := recognise(place):
        return known[0].open(known[1], split, image_size)
    if looks_like_image_folder(place, split):
        return read_image_folder(place, split, None, image_size)
    if looks_like_shards(place):
        return read_shards(str(place), split, image_size)
    under = f" under '{split}'" if split else ""
    return (
        " (is there, but holds neither parquet or Arrow files nor shards nor a layout that is known nor one folder of pictures "
        f"for each class{under})"
    )


def _as_entry(images: ImageSet, entry: FieldEntry | None) -> ImageSet:
    """A set that was asked for by its name in the table has that name, and the table's templates unless it brings its own."""
    if entry is None or (images.name == entry.name and images.templates != DEFAULT_TEMPLATES):
        return images
    templates = images.templates if images.templates != DEFAULT_TEMPLATES else entry.templates or DEFAULT_TEMPLATES
    return replace(images, name=entry.name, templates=templates)
