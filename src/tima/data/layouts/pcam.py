"""PatchCamelyon: HDF5 files of pictures `x` (N x 96 x 96 x 3) and labels `y` (N x 1 x 1 x 1): https://github.com/basveeling/pcam."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tima.data.field import field_entry
from tima.data.image_set import Reindexed
from tima.data.layouts.layout import Contents, Layout, ppm
from tima.errors import DataError


def _h5py() -> Any:
    try:
        import h5py  # type: ignore[import-not-found]
    except ImportError as error:
        raise DataError(
            "PatchCamelyon's .h5 files are read with h5py: pip install h5py. Without it, take the shards: "
            "tima data get pcam --shards"
        ) from error
    return h5py


@dataclass(frozen=True)
class Patches:
    """`index -> picture`; the file is opened each time, so that the set can be sent to other processes."""

    file: Path

    def __call__(self, index: int) -> bytes:
        with _h5py().File(self.file, "r") as file:
            return ppm(file["x"][index])


def _read(home: Path, split: str) -> Contents:
    stem = f"camelyonpatch_level_2_split_{ {'val': 'valid'}.get(split, split) }"
    pictures, answers = home / f"{stem}_x.h5", home / f"{stem}_y.h5"
    for file in (pictures, answers):
        if not file.is_file():
            raise DataError(f"{file} is missing. Unpack {file.name}.gz of the publisher there.")
    with _h5py().File(answers, "r") as file:
        labels = file["y"][:].reshape(-1).astype(int).tolist()
    with _h5py().File(pictures, "r") as file:
        count = file["x"].shape[0]
    if count != len(labels):
        raise DataError(f"{pictures} holds {count} pictures, {answers.name} {len(labels)} labels.")
    names = field_entry("pcam").names
    assert isinstance(names, tuple)
    return Contents(list(names), labels, Patches(pictures), Reindexed(f"{pictures}, row {{}}".format, range(count)))


LAYOUTS = (
    Layout(
        "pcam",
        ("camelyonpatch_level_2_split_*_x.h5",),
        ("pcam",),
        ("test", "train", "val"),
        _read,
        "https://github.com/basveeling/pcam",
    ),
)
