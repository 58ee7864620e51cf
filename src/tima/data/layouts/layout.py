"""What a reader of a publisher's layout is: markers to know the layout by, splits, and a function that lists the pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tima.data.field import field_entry
from tima.data.image_set import DEFAULT_TEMPLATES, BadImage, ImageSet, Reindexed
from tima.data.text_files import read_class_names, read_templates
from tima.errors import DataError


@dataclass
class Contents:
    """What a split holds.

    Attributes:
        class_names: one readable name a class; index = label.
        labels: class index of every picture.
        read, where: as in `ImageSet`.
        captions: for each picture its captions, in retrieval sets.
    """

    class_names: list[str]
    labels: Sequence[int]
    read: Callable[[int], bytes | Path]
    where: Callable[[int], str]
    quarantine: list[BadImage] = field(default_factory=list)
    captions: list[list[str]] | None = None

    @classmethod
    def of_files(cls, class_names: list[str], paths: list[Path], labels: Sequence[int], **more: Any) -> "Contents":
        """Pictures that are files. They need not exist: one that is missing is reported as unreadable when its turn comes."""
        return cls(class_names, labels, paths.__getitem__, Reindexed(str, paths), **more)


@dataclass(frozen=True)
class Layout:
    """A publisher's layout.

    Attributes:
        name: the set's name in the table.
        markers: files or folders that must be there; globs.
        nested: folders that the publisher's archive or torchvision puts around the content.
        splits: what the layout can offer, the split that is evaluated first.
        read: folder and split to contents.
        source: the publisher's description of the layout.
        only_named: the markers could be anybody's own folders, so the folder's name must be the set's too.
    """

    name: str
    markers: tuple[str, ...]
    nested: tuple[str, ...]
    splits: tuple[str, ...]
    read: Callable[[Path, str], Contents]
    source: str
    only_named: bool = False

    def home(self, folder: Path) -> Path | None:
        """The folder that holds the content, when this layout is what `folder` holds."""
        if self.only_named and folder.resolve().name not in field_entry(self.name).places:
            return None
        places = [folder, *(folder / inner for inner in self.nested)]
        return next((p for p in places if p.is_dir() and all(any(p.glob(m)) for m in self.markers)), None)

    def open(self, home: Path, split: str | None, image_size: int) -> ImageSet:
        """The split as an `ImageSet` with the set's own templates, or those beside the files.

        Raises:
            DataError: no such split, a file of the layout is missing or damaged.
        """
        entry = field_entry(self.name)
        contents = self.contents(home, split)
        if contents.captions is not None:
            raise DataError(
                f"{home}: {entry.title} has captions and no classes. It is scored by tima probe retrieval --data {self.name}"
            )
        names = read_class_names(home / "classnames.txt")
        if names is not None and len(names) != len(contents.class_names):
            raise DataError(
                f"{home / 'classnames.txt'} has {len(names)} lines for {len(contents.class_names)} classes of {entry.title}."
            )
        return ImageSet(
            name=self.name,
            class_names=names or contents.class_names,
            label_B=torch.tensor(contents.labels, dtype=torch.long),
            read=contents.read,
            where=contents.where,
            image_size=image_size,
            templates=read_templates(home) or entry.templates or DEFAULT_TEMPLATES,
            quarantine=contents.quarantine,
        )

    def contents(self, home: Path, split: str | None) -> Contents:
        """The lists of a split; None for the one that is evaluated."""
        split = {"validation": "val", "trainval": "train"}.get(split or "", split or self.splits[0])
        if self.splits == ("all",) and split == "train":  # a folder without splits is all training set
            split = "all"
        if split not in self.splits:
            raise DataError(
                f"{home} has no split '{split}': {field_entry(self.name).title} is read as {', '.join(self.splits)}."
            )
        try:
            return self.read(home, split)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{home}: {self.name} cannot be read ({error}). `tima data show {self.name}` says what it needs."
            ) from error


def lines_of(file: Path) -> list[str]:
    """The file's lines without the empty ones, trimmed."""
    return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def readable(name: str) -> str:
    """A class name from a file or folder name: underscores are spaces."""
    return " ".join(name.replace("_", " ").split())


def ppm(image_HWC: Any) -> bytes:
    """An uint8 array `H x W x 3` as an encoded picture: the PPM format is a header and the bytes, lossless and cheap."""
    height, width, _ = image_HWC.shape
    return b"P6\n%d %d\n255\n" % (width, height) + image_HWC.tobytes()
