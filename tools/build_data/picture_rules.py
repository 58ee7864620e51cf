"""Which class a picture belongs to and what its caption says, by the curated list of classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from picture_sources import NOISE_WORDS, Picture

FOLDER_WORDS = {"computer", "building", "map", "road", "bird", "plant", "home", "office", "button", "telephone"}
SILHOUETTE_TAIL = re.compile(r"( (head|face|slice|symbol|side|portrait))?$")


@dataclass(frozen=True)
class Rule:
    """One class: its name, the pattern of its synonyms and the pattern that keeps a picture out."""

    name: str
    wanted: re.Pattern[str] | None
    unwanted: re.Pattern[str] | None


def read_rules(text: str) -> list[Rule]:
    """Read the curated list of classes."""
    rules = []
    for line in (line.strip() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        name, mark, rest = re.match(r"([^:=]+)([:=]?)(.*)", line).groups()
        items = [item.strip() for item in rest.split(",") if item.strip()]
        wanted = [item for item in items if not item.startswith("-")] + ([] if mark == "=" else [name.lstrip("!").strip()])
        rules.append(Rule(name.strip(), _words(wanted), _words([item[1:] for item in items if item.startswith("-")])))
    return rules


def _words(items: list[str]) -> re.Pattern[str] | None:
    if not items:
        return None
    ordered = sorted(items, key=lambda item: (-len(item), item))
    return re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, ordered)) + r")(?:s|es)?(?![\w-])")


def classify(picture: Picture, rules: Iterable[Rule]) -> str | None:
    """Give the class named by the longest synonym in the title (the last one if equal), else by the keywords."""
    if picture.given_class:
        return picture.given_class
    best: tuple[int, int, str] | None = None
    said = picture.title
    if picture.source == "openclipart":
        said = " ".join([said, *picture.keywords])
    rules = [rule for rule in rules if rule.wanted and not (rule.unwanted and rule.unwanted.search(said))]
    for rule in rules:
        for match in rule.wanted.finditer(picture.title):
            if picture.source == "game-icons" and not SILHOUETTE_TAIL.fullmatch(picture.title, match.end()):
                continue
            found = (len(match.group(0)), match.start(), rule.name)
            best = max(best, found) if best else found
    if best or picture.source != "openclipart":
        return best[2] if best else None
    names = set()
    for rule in rules:
        names |= {rule.name for word in picture.keywords if word not in FOLDER_WORDS and rule.wanted.fullmatch(word)}
    return names.pop() if len(names) == 1 else None


def caption_of(picture: Picture, label: str | None) -> str:
    """Write the caption: the title, with the class and up to two keywords where the title alone says little."""
    if picture.source != "openclipart":
        return picture.title
    said = picture.title
    extra = [label] if label and not set(label.split()) & set(said.split()) else []
    for word in picture.keywords:
        if len(extra) < 2 and len(word) > 2 and word not in NOISE_WORDS and word not in said and word not in extra:
            extra.append(word)
    return ", ".join([part for part in [said, *extra] if part])
