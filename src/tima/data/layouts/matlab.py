"""Sets whose labels are MATLAB files: Oxford Flowers and Stanford Cars."""

from pathlib import Path
from typing import Any

import numpy as np

from tima.data.field import field_entry
from tima.data.layouts.layout import Contents, Layout
from tima.errors import DamagedDataError, DataError


def load_mat(file: Path) -> dict[str, Any]:
    """A MATLAB file's variables, single-element dimensions dropped.

    Raises:
        DataError: missing or damaged.
    """
    from scipy.io import loadmat

    if not file.is_file():
        raise DataError(f"{file} is missing.")
    try:
        return loadmat(str(file), squeeze_me=True)  # type: ignore[no-any-return]
    except Exception as error:  # a damaged file makes SciPy raise nearly anything
        raise DamagedDataError(f"{file} is no readable MATLAB file ({type(error).__name__}: {error}).") from error


def _flowers(home: Path, split: str) -> Contents:
    """`setid.mat`: picture numbers from 1 under `trnid`, `valid`, `tstid`; `imagelabels.mat`: all classes, from 1."""
    chosen = np.ravel(load_mat(home / "setid.mat")[{"train": "trnid", "val": "valid", "test": "tstid"}[split]]).tolist()
    label_N = np.ravel(load_mat(home / "imagelabels.mat")["labels"]).tolist()
    names = field_entry("flowers102").names
    assert isinstance(names, tuple)
    paths = [home / "jpg" / f"image_{number:05d}.jpg" for number in chosen]
    return Contents.of_files(list(names), paths, [int(label_N[number - 1]) - 1 for number in chosen])


def _cars(home: Path, split: str) -> Contents:
    """`annotations`: a record for each picture with `class` (from 1) and `fname`; `cars_meta.mat`: the names in order."""
    file = home / ("devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat")
    if not file.is_file() and split == "test":
        file = home / "devkit" / file.name
    rows = load_mat(file)["annotations"]
    if "class" not in (rows.dtype.names or ()):
        raise DataError(f"{file} has no classes. The test labels are in cars_test_annos_withlabels.mat.")
    names = [" ".join(str(name).split()) for name in load_mat(home / "devkit" / "cars_meta.mat")["class_names"].tolist()]
    rows = rows.reshape(-1)
    paths = [home / f"cars_{split}" / str(row["fname"]) for row in rows]
    return Contents.of_files(names, paths, [int(row["class"]) - 1 for row in rows])


LAYOUTS = (
    Layout(
        "flowers102",
        ("setid.mat", "imagelabels.mat", "jpg"),
        ("flowers-102",),
        ("test", "train", "val"),
        _flowers,
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    ),
    Layout(
        "stanford-cars",
        ("devkit/cars_meta.mat", "cars_t*"),
        ("stanford_cars",),
        ("test", "train"),
        _cars,
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    ),
)
