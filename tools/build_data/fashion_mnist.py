"""Build the ``fashion-mnist`` test set: a seeded tenth of the Fashion-MNIST test images (see README.md)."""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
from common import Example, encode, seeded_key, write_names, write_split
from PIL import Image

CLASSES = ("t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
A_CLASS = 100
TEMPLATES = (
    "a photo of a {c}.",
    "a black and white photo of a {c}.",
    "a low resolution photo of a {c}.",
    "a product photo of a {c}.",
    "a picture of a {c}.",
)


def read_idx(path: Path, header: int) -> np.ndarray:
    """Read the bytes after the header of a gzipped IDX file."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def main() -> None:
    """Read the test images and labels and write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder with the t10k-*.gz files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished set")
    args = parser.parse_args()
    images = read_idx(args.folder / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read_idx(args.folder / "t10k-labels-idx1-ubyte.gz", 8)
    chosen: list[int] = []
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels == label).tolist()
        chosen += sorted(members, key=lambda index: seeded_key("fashion-mnist", index))[:A_CLASS]
    examples = []
    for index in sorted(chosen, key=lambda index: seeded_key("shuffle", index)):
        data = encode(Image.fromarray(images[index]).convert("RGB"), "PNG", optimize=True)
        examples.append(Example(data, f"t10k_{index:05d}.png", int(labels[index])))
    write_split(args.out / "test.parquet", examples, CLASSES)
    write_names(args.out, CLASSES, TEMPLATES)
    print(len(examples), "images")


if __name__ == "__main__":
    main()
