"""Sets whose splits are lists of files: Food-101, Oxford Pets, DTD, FGVC-Aircraft, SUN397, and EuroSAT without a list."""

import json
from pathlib import Path

from tima.data.field import field_entry
from tima.data.image_folder import SUFFIXES
from tima.data.layouts.layout import Contents, Layout, lines_of, readable
from tima.errors import DataError


def _food101(home: Path, split: str) -> Contents:
    """`meta/test.txt`: lines `apple_pie/1011328`; `meta/classes.txt`: the classes, sorted. The .json files say the same."""
    classes = lines_of(home / "meta" / "classes.txt")
    listed = home / "meta" / f"{split}.txt"
    if listed.is_file():
        names = lines_of(listed)
    else:
        names = [name for group in json.loads((home / "meta" / f"{split}.json").read_text("utf-8")).values() for name in group]
    return _in_folders(home / "images", classes, [f"{name}.jpg" for name in names], listed)


def _pets(home: Path, split: str) -> Contents:
    """`annotations/test.txt`: lines `Abyssinian_201 1 1 1`, the class second, from 1; its name is in the file name."""
    listed = home / "annotations" / ("trainval.txt" if split == "train" else "test.txt")
    rows = [line.split() for line in lines_of(listed) if not line.startswith("#")]
    if not all(len(row) == 4 and row[1].isdigit() for row in rows):
        raise DataError(f"{listed}: every line must be 'name class species breed'.")
    labels = [int(row[1]) - 1 for row in rows]
    named = {label: readable(row[0].rsplit("_", 1)[0]) for label, row in zip(labels, rows, strict=True)}
    if sorted(named) != list(range(len(named))):
        raise DataError(f"{listed}: the classes are not counted from 1 without gaps.")
    return Contents.of_files([named[c] for c in range(len(named))], [home / "images" / f"{row[0]}.jpg" for row in rows], labels)


def _dtd(home: Path, split: str) -> Contents:
    """`labels/test1.txt`: lines `banded/banded_0002.jpg`, for the first of ten splits."""
    names = lines_of(home / "labels" / f"{split}1.txt")
    classes = sorted({name.split("/")[0] for name in names})
    return _in_folders(home / "images", classes, names, home / "labels" / f"{split}1.txt")


def _aircraft(home: Path, split: str) -> Contents:
    """`images_variant_test.txt`: lines `0034309 Boeing 707-320`; `variants.txt`: the classes in order."""
    listed, classes = home / f"images_variant_{split}.txt", lines_of(home / "variants.txt")
    rows = [line.partition(" ") for line in lines_of(listed)]
    number = {name: label for label, name in enumerate(classes)}
    if unknown := [name for _, _, name in rows if name not in number]:
        raise DataError(f"{listed}: '{unknown[0]}' is no line of variants.txt.")
    return Contents.of_files(classes, [home / "images" / f"{row[0]}.jpg" for row in rows], [number[row[2]] for row in rows])


def _sun397(home: Path, split: str) -> Contents:
    """`ClassName.txt`: lines `/a/apartment_building/outdoor`; `Testing_01.txt` of the publisher's partitions: picture paths."""
    classes = [line.removeprefix("/") for line in lines_of(home / "ClassName.txt")]
    names = [" ".join(readable(part) for part in reversed(c.split("/")[1:])) for c in classes]  # "outdoor apartment building"
    if split == "all":
        paths = [str(p.relative_to(home)) for p in sorted(home.glob("*/**/sun_*.jpg"))]
    else:
        part = "Testing_01.txt" if split == "test" else "Training_01.txt"
        listed = next((p for p in (home / part, home / "Partitions" / part) if p.is_file()), None)
        if listed is None:
            raise DataError(
                f"{home / part} is missing. Unpack Partitions.zip (see: tima data show sun397) there, or name all pictures: "
                "sun397:all"
            )
        paths = [line.removeprefix("/") for line in lines_of(listed)]
    number = {c: label for label, c in enumerate(classes)}
    if unknown := [p for p in paths if p.rsplit("/", 1)[0] not in number]:
        raise DataError(f"{home}: the folder of {unknown[0]} is no line of ClassName.txt.")
    return Contents.of_files(names, [home / p for p in paths], [number[p.rsplit("/", 1)[0]] for p in paths])


def _eurosat(home: Path, split: str) -> Contents:
    """`2750/AnnualCrop/AnnualCrop_1.jpg`: a folder for each class, no split."""
    names = field_entry("eurosat").names
    assert isinstance(names, dict)
    folders = sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith("."))
    paths = [p for folder in folders for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
    number = {folder.name: label for label, folder in enumerate(folders)}
    return Contents.of_files([names.get(f.name, f.name) for f in folders], paths, [number[p.parent.name] for p in paths])


def _in_folders(images: Path, classes: list[str], names: list[str], listed: Path) -> Contents:
    """Pictures `<class>/<file>` below `images`."""
    number = {name: label for label, name in enumerate(classes)}
    if unknown := [name for name in names if name.split("/")[0] not in number]:
        raise DataError(f"{listed}: '{unknown[0]}' does not begin with a class.")
    labels = [number[name.split("/")[0]] for name in names]
    return Contents.of_files([readable(c) for c in classes], [images / name for name in names], labels)


LAYOUTS = (
    Layout(
        "food101",
        ("meta/classes.txt", "images"),
        ("food-101",),
        ("test", "train"),
        _food101,
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
    ),
    Layout(
        "pets",
        ("annotations/test.txt", "images"),
        ("oxford-iiit-pet",),
        ("test", "train"),
        _pets,
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
    ),
    Layout(
        "dtd",
        ("labels/test1.txt", "images"),
        ("dtd", "dtd/dtd"),
        ("test", "train", "val"),
        _dtd,
        "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
    ),
    Layout(
        "fgvc-aircraft",
        ("variants.txt", "images"),
        ("data", "fgvc-aircraft-2013b/data"),
        ("test", "train", "val"),
        _aircraft,
        "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
    ),
    Layout(
        "sun397",
        ("ClassName.txt", "a"),
        ("SUN397",),
        ("test", "train", "all"),
        _sun397,
        "https://vision.princeton.edu/projects/2010/SUN/",
    ),
    Layout(
        "eurosat",
        ("AnnualCrop", "SeaLake"),
        ("2750", "EuroSAT_RGB", "eurosat/2750"),
        ("all",),
        _eurosat,
        "https://github.com/phelber/EuroSAT",
    ),
)
