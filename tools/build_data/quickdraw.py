"""Build the ``quickdraw`` test set: sketches of 100 kinds of things (see README.md).

The package holds each drawing as a 28-pixel bitmap; it is cut to the drawing, enlarged smoothly to 64 pixels and its
lines are sharpened, black on white.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
from common import Example, encode, seeded_key, write_names, write_split
from PIL import Image

SIZE = 64
SIDE = 28
MARGIN = 3
A_CLASS = 15
LEVELS = 16
CLASSES = tuple(
    """airplane|alarm clock|ambulance|angel|apple|axe|banana|bear|bed|bee|bicycle|birthday cake|book|bridge|bucket|bus|
butterfly|cactus|camel|camera|candle|car|castle|cat|chair|church|cloud|coffee cup|computer|cow|crab|crown|dog|dolphin|
dragon|drums|duck|ear|elephant|envelope|eye|fish|flamingo|flower|fork|frog|giraffe|grapes|guitar|hamburger|hammer|hand|
hat|headphones|helicopter|horse|hot air balloon|hourglass|house|ice cream|key|ladder|leaf|light bulb|lighthouse|lion|
lobster|lollipop|map|mermaid|microphone|monkey|mountain|mushroom|octopus|owl|palm tree|pants|parrot|pencil|penguin|
piano|pig|pineapple|pizza|rabbit|sailboat|scissors|shark|shoe|skull|snail|snake|snowman|spider|strawberry|sun|sword|
telephone|tree""".replace("\n", "").split("|")
)
TEMPLATES = (
    "a drawing of a {c}.",
    "a sketch of a {c}.",
    "a doodle of a {c}.",
    "a black and white line drawing of a {c}.",
    "a simple drawing of a {c}.",
    "a picture of a {c}.",
)


def draw(values: list[float]) -> Image.Image:
    """Turn the bitmap of a drawing (1 is ink) into a 64-pixel greyscale picture with smooth dark lines."""
    ink = np.asarray(values, np.float64).reshape(SIDE, SIDE)
    rows, columns = np.flatnonzero(ink.max(axis=1)), np.flatnonzero(ink.max(axis=0))
    ink = np.pad(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    grey = Image.fromarray(np.round(ink * 255).astype(np.uint8))
    scale = (SIZE - 2 * MARGIN) / max(grey.size)
    width, height = (max(1, round(side * scale)) for side in grey.size)
    large = np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC), np.float64) / 255
    sharp = np.clip((large - 0.2) / 0.45, 0, 1)
    steps = np.round((1 - sharp) * (LEVELS - 1)) * (255 / (LEVELS - 1))
    canvas = Image.new("L", (SIZE, SIZE), 255)
    canvas.paste(Image.fromarray(steps.astype(np.uint8)), ((SIZE - width) // 2, (SIZE - height) // 2))
    return canvas


def main() -> None:
    """Read the bitmaps of each class and write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=Path, required=True, help="src/drawings folder of the package")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished set")
    args = parser.parse_args()
    examples = []
    for label, name in enumerate(CLASSES):
        lines = gzip.decompress((args.drawings / f"{name}.ndjson.gz").read_bytes()).decode().splitlines()
        bitmaps = {index: json.loads(line)[: SIDE * SIDE] for index, line in enumerate(lines) if line.strip()}
        usable = [index for index, values in bitmaps.items() if sum(value > 0.5 for value in values) > SIDE]
        for index in sorted(usable, key=lambda index: seeded_key("quickdraw", name, index))[:A_CLASS]:
            data = encode(draw(bitmaps[index]).quantize(LEVELS), "PNG", optimize=True)
            examples.append(Example(data, f"{name.replace(' ', '_')}_{index:02d}.png", label))
    examples.sort(key=lambda row: seeded_key("shuffle", row.path))
    write_split(args.out / "test.parquet", examples, CLASSES)
    write_names(args.out, CLASSES, TEMPLATES)
    print(len(examples), "images,", len(CLASSES), "classes")


if __name__ == "__main__":
    main()
