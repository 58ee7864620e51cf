"""Build the ``cifar10`` test set: a seeded fifth of the CIFAR-10 test batch (see README.md)."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import Example, encode, seeded_key, write_names, write_split
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
A_CLASS = 200
RECORD = 1 + 3 * 32 * 32
TEMPLATES = (
    "a photo of a {c}.",
    "a blurry photo of a {c}.",
    "a low resolution photo of a {c}.",
    "a close-up photo of a {c}.",
    "a picture of a {c}.",
)


def main() -> None:
    """Read the binary test batch and write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=Path, required=True, help="test_batch.bin of the package")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished set")
    args = parser.parse_args()
    records = np.fromfile(args.batch, np.uint8).reshape(-1, RECORD)
    chosen: list[int] = []
    for label in range(len(CLASSES)):
        members = np.flatnonzero(records[:, 0] == label).tolist()
        chosen += sorted(members, key=lambda index: seeded_key("cifar10", index))[:A_CLASS]
    examples = []
    for index in sorted(chosen, key=lambda index: seeded_key("shuffle", index)):
        pixels = records[index, 1:].reshape(3, 32, 32).transpose(1, 2, 0)
        image = Image.fromarray(np.ascontiguousarray(pixels))
        data = encode(image, "PNG", optimize=True)
        examples.append(Example(data, f"test_batch_{index:05d}.png", int(records[index, 0])))
    write_split(args.out / "test.parquet", examples, CLASSES)
    write_names(args.out, CLASSES, TEMPLATES)
    print(len(examples), "images")


if __name__ == "__main__":
    main()
