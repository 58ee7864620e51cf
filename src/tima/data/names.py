"""Names of data sets: `cifar100`, `photos:val`, `wds:shards-{00..99}.tar`, `hf:org/name@config:test`."""

import re
from pathlib import Path

from tima.errors import DataError

SCHEMES = ("wds", "hf")
_SPLIT = re.compile(r"^(.+):([A-Za-z][\w-]*)$", re.S)


def parse_name(name: str, split: str | None = None) -> tuple[str, str, str | None]:
    """`(scheme, place, split)`; the scheme is empty for a name or path. A split in the name gives way to none.

    Raises:
        DataError: nothing behind the scheme, or two different splits.
    """
    scheme, colon, rest = name.partition(":")
    if not colon or scheme not in SCHEMES or Path(name).exists():
        scheme, rest = "", name
    found = None if Path(rest).exists() else _SPLIT.match(rest)
    if found is not None and (scheme or split is None):
        rest, named = found[1], found[2]
        if split is not None and split != named:
            raise DataError(f"'{name}' names the split '{named}', and the split '{split}' is asked for. Leave ':{named}' out.")
        split = named
    if not rest:
        raise DataError(f"'{name}' names nothing. Write {scheme or 'a name'}{':PLACE' if scheme else ''}.")
    return scheme, rest, split


def set_name(name: str) -> str:
    """What the set of this name is called in results, without opening it."""
    from tima.data.field import field_sets

    scheme, place, _ = parse_name(name)
    if scheme == "hf":
        place = place.split("@")[0]
        entry = next((e.name for e in field_sets().values() if e.hub == place), None)
        return entry or place.rstrip("/").rsplit("/", 1)[-1]
    if scheme == "wds":
        from tima.data.wds.places import name_of_shards

        return name_of_shards(place)
    last = Path(place).name
    return next((e.name for e in field_sets().values() if last in e.places), last)
