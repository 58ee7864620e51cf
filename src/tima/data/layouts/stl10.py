"""STL-10 in binary form: https://cs.stanford.edu/~acoates/stl10/ (planes one after the other, each column by column)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tima.data.image_set import Reindexed
from tima.data.layouts.layout import Contents, Layout, lines_of, ppm
from tima.errors import DamagedDataError

SIDE = 96
BYTES = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Planes:
    """`index -> picture`, read from its place in the file: the training file has 276 MB, the test file 221 MB."""

    file: Path

    def __call__(self, index: int) -> bytes:
        with self.file.open("rb") as file:
            file.seek(index * BYTES)
            data = file.read(BYTES)
        return ppm(np.frombuffer(data, np.uint8).reshape(3, SIDE, SIDE).transpose(2, 1, 0))


def _read(home: Path, split: str) -> Contents:
    pictures, answers = home / f"{split}_X.bin", home / f"{split}_y.bin"
    count, rest = divmod(pictures.stat().st_size, BYTES)
    label_N = np.fromfile(answers, np.uint8)
    if rest or len(label_N) != count:
        raise DamagedDataError(
            f"{pictures} holds {count} pictures of {SIDE} px and {rest} bytes more, {answers.name} {len(label_N)} labels: "
            "one of them is damaged. Fetch them again."
        )
    labels = [int(y) - 1 for y in label_N]  # the publisher counts from 1
    return Contents(
        lines_of(home / "class_names.txt"),
        labels,
        Planes(pictures),
        Reindexed(f"{pictures}, picture {{}}".format, range(count)),
    )


LAYOUTS = (
    Layout(
        "stl10",
        ("class_names.txt", "test_X.bin", "test_y.bin"),
        ("stl10_binary",),
        ("test", "train"),
        _read,
        "https://cs.stanford.edu/~acoates/stl10/",
    ),
)
