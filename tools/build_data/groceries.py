"""Build the ``groceries`` test set: photos of fruit in shops, 14 kinds (see README.md)."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import pyarrow.parquet as pq
from common import Example, encode, seeded_key, write_names, write_split
from PIL import Image, ImageOps

SIZE = 64
A_CLASS = 108
NAMES = {
    "Anjou": "anjou pear",
    "Cantaloupe": "cantaloupe melon",
    "Conference": "conference pear",
    "Galia-Melon": "galia melon",
    "Golden-Delicious": "golden delicious apple",
    "Granny-Smith": "granny smith apple",
    "Honeydew-Melon": "honeydew melon",
    "Kaiser": "kaiser pear",
    "Orange": "orange",
    "Pink-Lady": "pink lady apple",
    "Red-Delicious": "red delicious apple",
    "Royal-Gala": "royal gala apple",
    "Satsumas": "satsuma",
    "Watermelon": "watermelon",
}
TEMPLATES = (
    "a photo of a {c}.",
    "a photo of a {c}, a kind of fruit.",
    "a pile of {c} fruit in a grocery store.",
    "a photo of {c} fruit in a supermarket.",
    "a picture of a {c}.",
)


def main() -> None:
    """Read the photos and write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="groceries/images2.parquet of the package")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished set")
    args = parser.parse_args()
    rows = pq.read_table(args.photos, columns=["finegrained_cat", "image_data"]).to_pylist()
    kinds = sorted(NAMES)
    chosen: list[int] = []
    for kind in kinds:
        members = [index for index, row in enumerate(rows) if row["finegrained_cat"] == kind]
        chosen += sorted(members, key=lambda index: seeded_key("groceries", index))[:A_CLASS]
    examples = []
    for index in sorted(chosen, key=lambda index: seeded_key("shuffle", index)):
        kind = rows[index]["finegrained_cat"]
        with Image.open(io.BytesIO(rows[index]["image_data"])) as photo:
            image = ImageOps.fit(photo.convert("RGB"), (SIZE, SIZE), Image.Resampling.LANCZOS)
        data = encode(image, "WEBP", quality=85, method=6)
        examples.append(Example(data, f"{kind.lower()}_{index:04d}.webp", kinds.index(kind)))
    classes = [NAMES[kind] for kind in kinds]
    write_split(args.out / "test.parquet", examples, classes)
    write_names(args.out, classes, TEMPLATES)
    print(len(examples), "images")


if __name__ == "__main__":
    main()
