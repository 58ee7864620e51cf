"""ImageNet and its relatives: folders named by WordNet ids (Tiny-ImageNet, -A, -R, -Sketch) or by class numbers (-V2).

Names of the ids come from files that lie beside the pictures: Kaggle's `LOC_synset_mapping.txt` and Tiny-ImageNet's `words.txt`
("n01440764 tench, Tinca tinca"), the `README.txt` of -A and -R, `meta.mat` of the developers' kit.
"""

from pathlib import Path

from tima.data.image_folder import SUFFIXES
from tima.data.layouts.layout import Contents, Layout, lines_of
from tima.data.layouts.matlab import load_mat
from tima.data.text_files import read_class_names
from tima.errors import DataError

WNID = "n[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]"
NAME_FILES = ("LOC_synset_mapping.txt", "words.txt", "README.txt")
NEIGHBOURS = ("imagenet", "imagenet1k", "imagenet-1k", "ILSVRC2012")
# the two cranes are both called just so; all other pairs of one name can be told apart by their second names
CRANES = {"n02012849": "crane bird", "n03126707": "construction crane"}


def names_of_ids(wnids: list[str], home: Path) -> list[str]:
    """The first name of each WordNet id; where two ids share it, the second name of those that have one.

    Raises:
        DataError: no file with names, or an id that none of them knows.
    """
    synonyms = _synonyms(home)
    if missing := [wnid for wnid in wnids if wnid not in synonyms]:
        raise DataError(
            f"{home}: no name for {missing[0]}. Put a file with lines like 'n01440764 tench, Tinca tinca' there as "
            f"{NAME_FILES[0]}, or a classnames.txt with {len(wnids)} lines in the order of the ids."
        )
    first = [CRANES.get(wnid, synonyms[wnid][0]) for wnid in wnids]
    lowered = [name.lower() for name in first]
    return [
        synonyms[wnid][1] if lowered.count(name.lower()) > 1 and len(synonyms[wnid]) > 1 else name
        for wnid, name in zip(wnids, first, strict=True)
    ]


def _synonyms(home: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    places = [home, *(home.parent / name for name in NEIGHBOURS)]
    for place in places:
        for file in (place / name for name in NAME_FILES):
            for line in lines_of(file) if file.is_file() else ():
                wnid, _, names = line.replace("\t", " ").partition(" ")
                if Path(wnid).match(WNID) and names.strip():
                    found.setdefault(wnid, [name.strip().replace("_", " ") for name in names.split(",")])
        for file in sorted(place.glob("ILSVRC2012_devkit*/data/meta.mat")):
            for row in load_mat(file)["synsets"].reshape(-1):
                found.setdefault(str(row["WNID"]), [name.strip() for name in str(row["words"]).split(",")])
    return found


def _folders(root: Path, home: Path) -> Contents:
    """`<root>/<wnid>/<picture>`, classes in the order of the ids."""
    folders = sorted(p for p in root.glob(WNID) if p.is_dir())
    if not folders:
        raise DataError(f"{root} has no folders named by WordNet ids, such as n01440764. Sort the pictures into them.")
    names = read_class_names(home / "classnames.txt") or names_of_ids([p.name for p in folders], home)
    paths, labels = [], []
    for label, folder in enumerate(folders):
        inside = folder / "images" if (folder / "images").is_dir() else folder  # Tiny-ImageNet's training folders
        for path in sorted(inside.iterdir()):
            if path.suffix.lower() in SUFFIXES:
                paths.append(path)
                labels.append(label)
    return Contents.of_files(names, paths, labels)


def _imagenet(home: Path, split: str) -> Contents:
    return _folders(home / ("val" if split == "test" else "train"), home)


def _tiny(home: Path, split: str) -> Contents:
    """`val/val_annotations.txt`: lines `val_0.JPEG n03444034 ...` for the pictures in `val/images`."""
    if split == "train":
        return _folders(home / "train", home)
    if not (home / "val" / "val_annotations.txt").is_file():  # sorted into folders, as many scripts do
        return _folders(home / "val", home)
    wnids = sorted(lines_of(home / "wnids.txt"))
    number = {wnid: label for label, wnid in enumerate(wnids)}
    rows = [line.split() for line in lines_of(home / "val" / "val_annotations.txt")]
    if unknown := [row for row in rows if len(row) < 2 or row[1] not in number]:
        raise DataError(f"{home / 'val' / 'val_annotations.txt'}: '{' '.join(unknown[0])}' names no class of wnids.txt.")
    paths = [home / "val" / "images" / row[0] for row in rows]
    return Contents.of_files(names_of_ids(wnids, home), paths, [number[row[1]] for row in rows])


def _v2(home: Path, split: str) -> Contents:
    """`<class number>/<picture>`: numbers 0 to 999 without leading zeros, so that sorting by text would mix the classes up."""
    folders = sorted((p for p in home.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    names = read_class_names(home / "classnames.txt")
    if names is None:
        neighbours = [home.parent / n for n in NEIGHBOURS]
        wnids = next((w for n in neighbours if (w := sorted(p.name for p in n.glob(f"val/{WNID}")))), None)
        wnids = wnids or sorted(_synonyms(home))
        if not folders or len(wnids) <= int(folders[-1].name):
            raise DataError(
                f"{home}: class {folders[-1].name if folders else 0} has no name. Put a classnames.txt with ImageNet's "
                f"classes, one a line in the order of their WordNet ids, there, or ImageNet's {NAME_FILES[0]}."
            )
        names = names_of_ids(wnids, home)
    return Contents.of_files(names, paths, [int(p.parent.name) for p in paths])


def _flat(home: Path, split: str) -> Contents:
    return _folders(home, home)


PAGE = "https://image-net.org/challenges/LSVRC/2012/"
V2 = "imagenetv2-matched-frequency-format-val"
LAYOUTS = (
    Layout(
        "tiny-imagenet",
        ("wnids.txt", "words.txt", "val"),
        ("tiny-imagenet-200",),
        ("test", "train"),
        _tiny,
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ),
    Layout("imagenet-v2", ("0", "1", "10"), (V2,), ("test",), _v2, "https://github.com/modestyachts/ImageNetV2"),
    # before -A, which has all of these markers but the goldfish
    Layout(
        "imagenet-r", ("n01443537", "README.txt"), ("imagenet-r",), ("test",), _flat, "https://github.com/hendrycks/imagenet-r"
    ),
    Layout(
        "imagenet-a",
        ("n01498041", "README.txt"),
        ("imagenet-a",),
        ("test",),
        _flat,
        "https://github.com/hendrycks/natural-adv-examples",
    ),
    Layout("imagenet", (f"val/{WNID}",), ("ILSVRC/Data/CLS-LOC",), ("test", "train"), _imagenet, PAGE, only_named=True),
    Layout(
        "imagenet-sketch",
        (f"{WNID}/sketch_*",),
        ("sketch",),
        ("test",),
        _flat,
        "https://github.com/HaohanWang/ImageNet-Sketch",
        only_named=True,
    ),
)
