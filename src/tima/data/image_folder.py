"""Reader for ImageFolder: one folder a class, named after it, with the pictures inside (torchvision's layout)."""

from pathlib import Path

import torch

from tima.data.image_set import DEFAULT_TEMPLATES, BadImage, ImageSet, Reindexed
from tima.data.text_files import read_class_names, read_templates
from tima.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
SPLITS = ("test", "val", "validation", "train")


def looks_like_image_folder(folder: Path, split: str | None) -> bool:
    root = _root(folder, split)
    return root is not None and bool(_subfolders(root))


def _root(folder: Path, split: str | None) -> Path | None:
    if split is not None:
        if (folder / split).is_dir():
            return folder / split
        # a folder without splits is all training set
        return folder if split == "train" and not any((folder / s).is_dir() for s in SPLITS) else None
    # a split holds class folders; a folder named "train" with pictures in it is a class of trains
    return next((folder / s for s in SPLITS if (folder / s).is_dir() and _subfolders(folder / s)), folder)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_image_folder(folder: Path, split: str | None = None, name: str | None = None, image_size: int = 224) -> ImageSet:
    """Read `folder/<split>/<class>/*.jpg` or `folder/<class>/*.jpg`.

    Folder names become class names with `_` as a space. A `classnames.txt` beside the class folders replaces them,
    line by line in the folders' sorted order. A file that is no picture is quarantined, not fatal.

    Raises:
        DataError: an empty class folder, a class name given twice, as many names as folders not given.
    """
    root = _root(folder, split)
    if root is None:
        there = ", ".join(p.name for p in _subfolders(folder)) or "nothing"
        raise DataError(f"{folder} has no split '{split}'; it has: {there}.")
    class_folders = _subfolders(root)
    names = read_class_names(root / "classnames.txt") or read_class_names(folder / "classnames.txt")
    if names is not None and len(names) != len(class_folders):
        raise DataError(f"{root}: classnames.txt has {len(names)} lines for {len(class_folders)} class folders.")
    paths: list[Path] = []
    labels: list[int] = []
    quarantine: list[BadImage] = []
    for label, class_folder in enumerate(class_folders):
        before = len(paths)
        for path in sorted(p for p in class_folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
            if path.suffix.lower() not in SUFFIXES:
                kind = f"'{path.suffix}'" if path.suffix else "a name without an ending"
                quarantine.append(BadImage(str(path), f"{kind} is not a picture format that is read"))
                continue
            paths.append(path)
            labels.append(label)
        if len(paths) == before:
            raise DataError(f"{class_folder}: this class has no pictures. Remove the folder or fill it.")
    if not paths:
        raise DataError(f"{root}: no class folders with pictures in them.")
    return ImageSet(
        name=name or folder.resolve().name,
        class_names=names or [p.name.replace("_", " ") for p in class_folders],
        label_B=torch.tensor(labels),
        read=paths.__getitem__,
        where=Reindexed(str, paths),
        image_size=image_size,
        templates=read_templates(folder) or DEFAULT_TEMPLATES,
        quarantine=quarantine,
    )
