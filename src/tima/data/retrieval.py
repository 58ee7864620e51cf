"""`find_captions`: the retrieval sets of the field, and shards with captions, by name or folder."""

from pathlib import Path

import torch

from tima.data.field import field_sets
from tima.data.image_set import ImageSet
from tima.data.layouts import recognise
from tima.data.layouts.captions import CLASS
from tima.data.names import parse_name
from tima.data.places import data_roots
from tima.data.wds import looks_like_shards, read_shard_captions


def find_captions(name: str, split: str | None = None, image_size: int = 224) -> tuple[ImageSet, list[list[str]]] | None:
    """Pictures with the captions of each, or None when the name means no retrieval set of the table and no shards.

    Raises:
        DataError: it is one and cannot be read.
    """
    scheme, place, split = parse_name(name, split)
    if scheme == "wds":
        return read_shard_captions(place, split, image_size)
    if scheme:
        return None
    entry = field_sets().get(place)
    known = [root / folder for root in data_roots() for folder in entry.places] if entry else []
    for folder in (Path(place).expanduser(), *known):
        if not folder.is_dir():
            continue
        if looks_like_shards(folder):
            return read_shard_captions(str(folder), split, image_size)
        found = recognise(folder)
        if found is None or field_sets()[found[0].name].task != "retrieval":
            continue
        layout, home = found
        contents = layout.contents(home, split)
        assert contents.captions is not None
        images = ImageSet(
            name=layout.name,
            class_names=[CLASS],
            label_B=torch.tensor(contents.labels, dtype=torch.long),
            read=contents.read,
            where=contents.where,
            image_size=image_size,
            quarantine=contents.quarantine,
        )
        return images, contents.captions
    return None
