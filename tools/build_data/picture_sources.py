"""Where the pictures of the ``pictures`` set come from: emoji and clip art, with their titles and keywords."""

from __future__ import annotations

import html
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

SKIPPED_FOLDERS = re.compile(
    r"^(shapes|special|logos)/|/flags/|^computer/(icons|buttons|diagrams|connectors)/|/cards/|map_symbols|/led/|"
    r"^unsorted/duplicates|roadsigns|aiga-symbols|callouts|/semaphore|/bb_"
)
SKIPPED_SUBGROUPS = {
    "arrow", "alphanum", "geometric", "keycap", "av-symbol", "math", "punctuation", "currency", "gender", "zodiac",
    "other-symbol", "transport-sign", "warning",
}  # fmt: skip
SUBGROUP_CLASSES = {
    "face-smiling": "smiling face",
    "face-affection": "smiling face",
    "face-tongue": "smiling face",
    "face-glasses": "smiling face",
    "face-concerned": "sad face",
    "face-unwell": "sick face",
    "face-sleepy": "sleepy face",
    "hand-fingers-open": "hand",
    "hand-fingers-partial": "hand",
    "hand-single-finger": "hand",
    "hand-fingers-closed": "hand",
    "hands": "hand",
    "cat-face": "cat",
    "monkey-face": "monkey",
}
EMOJI_CLASSES = {"angry face": "angry face", "enraged face": "angry face", "face with steam from nose": "angry face",
                 "face with symbols on mouth": "angry face", "writing hand": "hand"}  # fmt: skip
MAX_BYTES = 1_500_000
NOISE = """
a an the and or of in on by with for from di de la le il da del to svg png clipart cliparts clip art openclipart
unsorted various hash icon icons symbol symbols sign signs aiga buculei nicu francesco rollandin architetto sibmission
iconset svgz etiquette tasto simple shape shapes image picture collection drawn bw colour color webpage openoffice
public domain lumen mateya jr appicon tools elements examples example rpg new v menu
"""
NOISE_WORDS = set(NOISE.split())


@dataclass(frozen=True)
class Picture:
    """One source picture: where it lies, what is said about it and the class its source gives it, if any."""

    path: Path
    key: str
    group: str
    title: str
    keywords: tuple[str, ...]
    source: str
    given_class: str | None = None
    svg: str | None = None


def read_emojibase(emojibase: Path) -> dict[str, Picture]:
    """List the emoji that show a thing (no skin tones, flags or abstract signs) by hexcode, still without a drawing."""
    groups = json.loads((emojibase / "meta/groups.json").read_text(encoding="utf-8"))["subgroups"]
    emoji = {}
    for entry in json.loads((emojibase / "en/data.json").read_text(encoding="utf-8")):
        if entry.get("group") in (None, 2, 9) or groups[str(entry["subgroup"])] in SKIPPED_SUBGROUPS:
            continue
        title = entry["label"].lower()
        given = EMOJI_CLASSES.get(title) or SUBGROUP_CLASSES.get(groups[str(entry["subgroup"])])
        code = _plain(entry["hexcode"])
        tags = tuple(tag.lower() for tag in entry.get("tags", []))
        emoji[code] = Picture(emojibase, code, code, title, tags, "emoji", given)
    return emoji


def read_emoji(images: Path, emoji: dict[str, Picture], source: str) -> Iterator[Picture]:
    """List the emoji that have an image file named by their hexcode."""
    for file in sorted(images.iterdir()):
        found = emoji.get(_plain(file.stem))
        if found and file.suffix in {".png", ".webp"}:
            yield replace(found, path=file, key=f"{source}/{found.group}", source=source)


def read_emoji_icons(package: Path, emoji: dict[str, Picture], source: str) -> Iterator[Picture]:
    """List the emoji drawn in an icon package, joined by their Unicode or CLDR name."""
    names: dict[str, Picture] = {}
    for code, entry in emoji.items():
        if "-" not in code:
            names.setdefault(_letters(unicodedata.name(chr(int(code, 16)), code)), entry)
    names |= {_letters(entry.title): entry for entry in emoji.values()}
    done = set()
    for name, svg in read_icons(package):
        found = names.get(_letters(name)) or names.get(_letters(name.removesuffix("side")))
        if found and found.group not in done:
            done.add(found.group)
            yield replace(found, path=package, key=f"{source}/{name}", source=source, svg=svg)


def read_silhouettes(package: Path) -> Iterator[Picture]:
    """List the silhouettes of an icon package, titled by their names."""
    for name, svg in read_icons(package):
        title = clean(name.replace("-", " "))
        if title and title.count(" ") < 2 and not name.startswith("card-"):
            yield Picture(package, f"game-icons/{name}", name, title, (), "game-icons", None, svg)


def read_icons(package: Path) -> Iterator[tuple[str, str]]:
    """Give name and drawing of every icon of an icon package."""
    data = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    for name, icon in sorted(data["icons"].items()):
        width = icon.get("width", data.get("width", 16))
        height = icon.get("height", data.get("height", 16))
        left, top = icon.get("left", 0), icon.get("top", 0)
        yield (
            name,
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="black" '
                f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
            ),
        )


def read_clipart(png_root: Path, svg_root: Path) -> Iterator[Picture]:
    """List the clip art of the two openclipart packages, titled by the metadata of the drawings."""
    for file in sorted(png_root.rglob("*.png")):
        key = file.relative_to(png_root).as_posix()
        if SKIPPED_FOLDERS.search(key) or file.stat().st_size > MAX_BYTES:
            continue
        drawing = svg_root / Path(key).with_suffix(".svg")
        text = drawing.read_text(encoding="utf-8", errors="replace") if drawing.exists() else ""
        if re.search(r'<image[^>]+xlink:href="(?!data:|#)', text):
            continue  # a linked photo was not shipped: the picture shows an error message
        title, keywords = clipart_text(text, file.stem)
        yield Picture(file, f"openclipart/{key}", key, title, keywords, "openclipart")


def clipart_text(svg: str, stem: str) -> tuple[str, tuple[str, ...]]:
    """Read title and keywords from a drawing's metadata, leaving out its makers; the file name stands in."""
    found = re.search(r"<(?:cc:)?Work\b.*?</(?:cc:)?Work>", svg, re.DOTALL)
    work = found.group(0) if found else ""
    work = re.sub(r"<(?:dc:)?(publisher|creator|rights|contributor)\b.*?</(?:dc:)?\1>", "", work, flags=re.DOTALL)
    named = re.search(r"<(?:dc:)?title>(.*?)</", work, re.DOTALL)
    title = clean(named.group(1)) if named else ""
    if set(title.split()) <= NOISE_WORDS:
        title = " ".join(word for word in clean(stem).split() if word not in NOISE_WORDS)
    keywords = (clean(word) for word in re.findall(r"<rdf:li>(.*?)</rdf:li>", work, re.DOTALL))
    kept = dict.fromkeys(word for word in keywords if word and word not in NOISE_WORDS and not word.startswith("by "))
    return title, tuple(kept)


def clean(text: str) -> str:
    """Lower-case a title and cut numbers, file-name separators and author marks out of it."""
    text = html.unescape(html.unescape(text)).lower()
    text = re.sub(r"\.(svg|png)\b", " ", text)
    text = re.sub(r"\bby\b.*$|\(.*?\)|\bv\.?\d+\b", " ", text)
    text = re.sub(r"[^a-zà-ÿ'&-]+", " ", text)
    words = [word.strip("-'&") for word in text.split()]
    return " ".join(word for word in words if len(word) > 1 or word == "a").strip()


def _plain(hexcode: str) -> str:
    parts = [part for part in re.split(r"[-_]", hexcode.lower()) if part != "fe0f"]
    return "-".join(part.lstrip("0") for part in parts)


def _letters(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub("[^a-z0-9]", "", plain)
