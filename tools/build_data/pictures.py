"""Build the ``pictures`` set: emoji and clip art with classes and captions (see README.md for the packages)."""

from __future__ import annotations

import argparse
import io
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from common import Example, encode, on_white, seeded_key, write_names, write_split
from picture_rules import caption_of, classify, read_rules
from picture_sources import (
    Picture,
    read_clipart,
    read_emoji,
    read_emoji_icons,
    read_emojibase,
    read_silhouettes,
)
from PIL import Image
from resvg_py import svg_to_bytes

SIZE = 64
MIN_A_CLASS = 9
MAX_A_CLASS = 60
MAX_SILHOUETTES = 6
SAME_PICTURE = 3.0
EMOJI_IMAGES = ("fluent", "noto", "twemoji")
EMOJI_ICONS = ("fluent-emoji-flat", "noto-v1", "fxemoji", "emojione")
TEMPLATES = (
    "a picture of a {c}.",
    "a drawing of a {c}.",
    "clip art of a {c}.",
    "an icon of a {c}.",
    "a photo of a {c}.",
)


def load(picture: Picture) -> Image.Image | None:
    """Open a picture as a 64-pixel square on white; None where it is broken or empty."""
    try:
        source = io.BytesIO(svg_to_bytes(picture.svg, width=128, skip_system_fonts=True)) if picture.svg else picture.path
        with Image.open(source) as image:
            return on_white(image if image.mode == "RGB" else image.convert("RGBA"), SIZE, margin=2)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def without_copies(images: dict[str, Image.Image]) -> list[str]:
    """Give the keys of the pictures that are no near-copy of an earlier one, nor blank."""
    kept: list[str] = []
    seen = np.zeros((len(images), 16 * 16 * 3), np.float32)
    for key, image in images.items():
        small = np.asarray(image.resize((16, 16), Image.Resampling.BOX), np.float32).reshape(-1)
        if small.std() < 2 or (kept and np.abs(seen[: len(kept)] - small).mean(axis=1).min() < SAME_PICTURE):
            continue
        seen[len(kept)] = small
        kept.append(key)
    return kept


def split(members: list[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Hold a seeded tenth of a class out for validation, the drawings of one emoji together if they fit."""
    groups: dict[str, list[Picture]] = defaultdict(list)
    for picture in members:
        groups[picture.group].append(picture)
    held: list[Picture] = []
    goal = max(1, round(len(members) / 10))
    for group in sorted(groups, key=lambda name: seeded_key("val", name)):
        if len(held) + len(groups[group]) <= goal + 1 and len(held) < goal:
            held += groups[group]
    held = held or sorted(members, key=lambda picture: seeded_key("val", picture.key))[:goal]
    names = {picture.key for picture in held}
    return [picture for picture in members if picture.key not in names], held


def main() -> None:
    """Read the packages' folders and write the set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fluent", type=Path, required=True, help="assets folder of @lobehub/fluent-emoji-3d")
    parser.add_argument("--noto", type=Path, required=True, help="img/google/64 folder of emoji-datasource-google")
    parser.add_argument("--twemoji", type=Path, required=True, help="img/twitter/64 of emoji-datasource-twitter")
    parser.add_argument("--icons", type=Path, required=True, help="folder with the unpacked icon packages")
    parser.add_argument("--emojibase", type=Path, required=True, help="package folder of emojibase-data")
    parser.add_argument("--clipart-png", type=Path, required=True, help="png folder of openclipart-png")
    parser.add_argument("--clipart-svg", type=Path, required=True, help="svg folder of openclipart-svg")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished set")
    args = parser.parse_args()
    pictures: list[Picture] = []
    emoji = read_emojibase(args.emojibase)
    for name in EMOJI_IMAGES:
        pictures += read_emoji(getattr(args, name), emoji, name)
    for name in EMOJI_ICONS:
        pictures += read_emoji_icons(args.icons / name / "package", emoji, name)
    pictures += read_clipart(args.clipart_png, args.clipart_svg)
    pictures += read_silhouettes(args.icons / "game-icons" / "package")
    rules = read_rules(Path(__file__).with_name("picture_classes.txt").read_text(encoding="utf-8"))
    found = {picture.key: classify(picture, rules) for picture in pictures}
    pictures = [picture for picture in pictures if found[picture.key] or picture.source != "game-icons"]
    images = {picture.key: image for picture in pictures if (image := load(picture)) is not None}
    kept = set(without_copies(images))
    members: dict[str, list[Picture]] = defaultdict(list)
    for picture in sorted(pictures, key=_order):
        name = found[picture.key]
        many = Counter(row.source for row in members[name])["game-icons"] >= MAX_SILHOUETTES if name else False
        if picture.source == "game-icons" and many:
            continue
        if picture.key in kept and name and len(members[name]) < MAX_A_CLASS:
            members[name].append(picture)
    left_out = {name: len(rows) for name, rows in members.items() if len(rows) < MIN_A_CLASS or name[0] == "!"}
    classes = sorted(name for name in members if name not in left_out)
    parts: dict[str, list[Example]] = {"train": [], "val": []}
    for label, name in enumerate(classes):
        for part, rows in zip(parts, split(members[name]), strict=True):
            parts[part] += [_example(row, images[row.key], label, name) for row in rows]
    for part, rows in parts.items():
        rows.sort(key=lambda row: seeded_key("shuffle", row.path))
        write_split(args.out / f"{part}.parquet", rows, classes)
    rest = [row for row in pictures if row.key in kept and (found[row.key] is None or found[row.key] in left_out)]
    rest = [row for row in rest if row.title and row.source != "game-icons"]
    write_split(args.out / "captions.parquet", [_example(row, images[row.key], None, None) for row in rest], None)
    write_names(args.out, classes, TEMPLATES)
    print({part: len(rows) for part, rows in parts.items()}, "captions", len(rest), "classes", len(classes))
    print("left out:", left_out)
    print(Counter(row.source for name in classes for row in members[name]))


def _order(picture: Picture) -> tuple[bool, int, str]:
    words = picture.title.count(" ") if picture.source == "game-icons" else 0
    return picture.source != "openclipart", words, seeded_key("order", picture.key)


def _example(picture: Picture, image: Image.Image, label: int | None, name: str | None) -> Example:
    data = encode(image, "WEBP", quality=80, method=6)
    return Example(data, picture.key, label, caption_of(picture, name))


if __name__ == "__main__":
    main()
