"""CIFAR-10 and CIFAR-100 as their publisher packs them for Python: https://www.cs.toronto.edu/~kriz/cifar.html."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tima.data.layouts.layout import Contents, Layout, ppm, readable
from tima.data.safe_pickle import safe_load
from tima.errors import DataError

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclass(frozen=True)
class Rows:
    """`index -> picture`: a row is 3,072 bytes, the red plane first, then green and blue."""

    array_NP: np.ndarray

    def __call__(self, index: int) -> bytes:
        return ppm(self.array_NP[index].reshape(3, 32, 32).transpose(1, 2, 0))


@dataclass(frozen=True)
class RowNames:
    """`index -> "file, row"`, for messages."""

    files: tuple[Path, ...]
    ends: tuple[int, ...]

    def __call__(self, index: int) -> str:
        file = int(np.searchsorted(self.ends, index, side="right"))
        return f"{self.files[file]}, row {index - (self.ends[file - 1] if file else 0)}"


def _read(files: Sequence[Path], meta: Path, labels_key: bytes, names_key: bytes) -> Contents:
    arrays, labels = [], []
    for file in files:
        batch = _dict(file)
        array, found = batch.get(b"data"), batch.get(labels_key)
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != 3072:
            raise DataError(f"{file}: no pictures of 32 x 32 bytes in it.")
        if not isinstance(found, list) or len(found) != len(array) or not all(isinstance(y, int) for y in found):
            raise DataError(f"{file}: its {len(array)} pictures have no label each under '{labels_key.decode()}'.")
        arrays.append(array)
        labels.extend(found)
    names = _dict(meta).get(names_key)
    if not isinstance(names, list):
        raise DataError(f"{meta}: no class names under '{names_key.decode()}'.")
    ends = tuple(int(end) for end in np.cumsum([len(array) for array in arrays]))
    texts = [readable(name.decode("utf-8") if isinstance(name, bytes) else str(name)) for name in names]
    return Contents(texts, labels, Rows(np.concatenate(arrays)), RowNames(tuple(files), ends))


def _dict(file: Path) -> dict[Any, Any]:
    if not file.is_file():
        raise DataError(f"{file} is missing.")
    found = safe_load(file)
    if not isinstance(found, dict):
        raise DataError(f"{file} is no batch of CIFAR: it holds a {type(found).__name__}.")
    return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}


def _cifar10(home: Path, split: str) -> Contents:
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    return _read([home / name for name in names], home / "batches.meta", b"labels", b"label_names")


def _cifar100(home: Path, split: str) -> Contents:
    return _read([home / split], home / "meta", b"fine_labels", b"fine_label_names")


LAYOUTS = (
    Layout("cifar10-full", ("batches.meta", "test_batch"), ("cifar-10-batches-py",), ("test", "train"), _cifar10, PAGE),
    Layout("cifar100", ("meta", "test", "train"), ("cifar-100-python",), ("test", "train"), _cifar100, PAGE),
)
