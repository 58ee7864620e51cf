"""`check`: is a set whole? Counts, checksums, class names, and whether the pictures decode, in words a person can act on."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from tima.data.field import FieldEntry, field_sets
from tima.data.image_set import BadImage, ImageSet, check_class_names, sample_indices
from tima.data.layouts import recognise
from tima.data.manifest import verify_manifest
from tima.data.names import parse_name
from tima.data.places import data_home
from tima.data.retrieval import find_captions
from tima.data.table import EMBEDDED, find_data, places_of
from tima.errors import DamagedDataError, DataError, MissingDataError

Verdict = Literal["ok", "note", "wrong", "missing"]


@dataclass
class Finding:
    """One thing that was looked at."""

    what: str
    verdict: Verdict
    words: str


@dataclass
class Checked:
    """Everything found about one set. `images_per_s`: decoding on one core, None where nothing was decoded."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    images_per_s: float | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        order: list[Verdict] = ["ok", "note", "wrong", "missing"]
        return max((f.verdict for f in self.findings), key=order.index, default="ok")

    def say(self, what: str, verdict: Verdict, words: str) -> None:
        self.findings.append(Finding(what, verdict, words))


def check(name: str, *, entry: FieldEntry | None = None, samples: int | None = 500, image_size: int = 64) -> Checked:
    """Look at every split of a set.

    Args:
        name: as `find_data` takes it; with `:split` only that split.
        entry: what the table says of it, by default found by the name or by the layout of the folder.
        samples: so many pictures of each split, drawn by a fixed seed, are decoded; None for all, 0 for none.
    """
    found = Checked(name)
    scheme, place, split = parse_name(name)
    entry = entry or (None if scheme else field_sets().get(place))
    if entry is None and not scheme and place not in EMBEDDED and (known := recognise(Path(place).expanduser())):
        entry = field_sets()[known[0].name]
    splits = [split] if split or entry is None else list(entry.splits)
    there = 0
    for number, one in enumerate(splits):
        label = one or "evaluation split"
        asked = one if split or number else None  # shards and folders may call the split that is evaluated otherwise
        try:
            images = _open(f"{scheme}:{place}" if scheme else place, asked, entry, image_size)
        except DataError as error:
            absent = isinstance(error, MissingDataError)
            # only the split that is evaluated must be there; one that is there must not be damaged
            optional = number > 0 and one != split and not isinstance(error, DamagedDataError)
            found.say(
                label, "note" if optional else "missing" if absent else "wrong", _brief(str(error)) if optional else str(error)
            )
            if absent:
                break
            continue
        there += 1
        _look(found, images, label, one, entry, samples)
    if there:
        _checksums(found, scheme, place)
    elif entry is not None and found.verdict == "wrong":
        found.say("how to get it", "note", entry.how(str(data_home())))
    return found


def _open(base: str, split: str | None, entry: FieldEntry | None, image_size: int) -> ImageSet:
    if entry is None or entry.task == "classification":
        return find_data(base, split, image_size)
    held = find_captions(base, split, image_size)
    if held is None:
        raise MissingDataError(f"{entry.title} is not here. How to get it:\n{entry.how(str(data_home()))}")
    return held[0]


def _look(
    found: Checked, images: ImageSet, label: str, split: str | None, entry: FieldEntry | None, samples: int | None
) -> None:
    """Counts, names and pictures of one split."""
    count, classes = len(images) + len(images.quarantine), len(images.class_names)
    expected = None if entry is None else entry.splits.get(split or "")
    ours = isinstance(images.shard_B, torch.Tensor)  # shards: their makers may have drawn other splits
    if expected is None or count == expected:
        found.say(label, "ok", f"{count:,} images" + ("" if expected is None else ", as in the table"))
    else:
        found.say(label, "note" if ours else "wrong", f"{count:,} images; the table says {expected:,}" + _shard_words(ours))
    if entry is not None and entry.classes and classes != entry.classes:
        found.say(label, "note" if ours else "wrong", f"{classes} classes; the table says {entry.classes}" + _shard_words(ours))
    try:
        check_class_names(images.class_names, label)
    except DataError as error:
        found.say(label, "wrong", str(error))
    empty = sorted(set(range(classes)) - set(images.label_B.unique().tolist()))
    if empty and classes > 1:
        some = ", ".join(images.class_names[c] for c in empty[:5])
        found.say(label, "note", f"{len(empty)} of {classes} classes have no image: {some}{', ...' if len(empty) > 5 else ''}")
    bad = list(images.quarantine)
    if samples != 0:
        chosen = sample_indices(len(images), samples, seed=0).tolist()
        began = time.perf_counter()
        bad += [item for item, _, _ in images.__getitems__(chosen) if isinstance(item, BadImage)]
        found.images_per_s = len(chosen) / max(time.perf_counter() - began, 1e-9)
        if not bad:
            found.say(label, "ok", f"{len(chosen):,} images decoded, {found.images_per_s:,.0f} images/s")
    for item in bad[:20]:
        found.say(label, "wrong", f"{item.where}: {item.why}")
    if len(bad) > 20:
        found.say(label, "wrong", f"and {len(bad) - 20} more that cannot be read")


def _shard_words(shards: bool) -> str:
    return " for the publisher's split; shards may hold another" if shards else ""


def _checksums(found: Checked, scheme: str, place: str) -> None:
    folders = [] if scheme else [path for path in places_of(place) if path.is_dir()]
    for folder in folders:
        wrong = verify_manifest(folder)
        if wrong is None:
            continue
        for words in wrong[:20]:
            found.say("checksums", "wrong", f"{folder}: {words}")
        if len(wrong) > 20:
            found.say("checksums", "wrong", f"{folder}: and {len(wrong) - 20} files more")
        if not wrong:
            found.say("checksums", "ok", f"{folder}: every file is as it was fetched")
        return
    found.say("checksums", "note", "none noted: `tima data get` notes them when it fetches a set")


def _brief(text: str) -> str:
    return text.split("\n")[0]
