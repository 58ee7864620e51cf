"""Which shards a name means: `{000..099}` patterns, CLIP_benchmark's folder layout, on disk or behind a URL.

Layout: https://github.com/LAION-AI/CLIP_benchmark#webdataset-format. `classnames.txt`,
`zeroshot_classification_templates.txt` and `dataset_type.txt` in the set's folder; in the folder of a split `nshards.txt` with
a number, and that many files `0.tar`, `1.tar` and so on.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from tima.data.download import read_url
from tima.errors import DataError

MOST_SHARDS = 1_000_000
EVALUATED = ("test", "val", "validation", "train")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_HUB_PAGE = re.compile(r"^(https?://[^/]+/datasets/[^/]+/[^/]+)/tree/(.+)$")


@dataclass(frozen=True)
class ShardList:
    """Paths or URLs of the shards, and the small text files beside them by their names."""

    name: str
    shards: list[str]
    where: str
    texts: dict[str, str] = field(default_factory=dict)

    def lines(self, file: str) -> list[str] | None:
        """A text file's lines, those at the end that are blank dropped; None when there is none."""
        if file not in self.texts:
            return None
        lines = [line.strip() for line in self.texts[file].splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def retrieval(self) -> bool:
        return self.texts.get("dataset_type.txt", "").strip().lower() == "retrieval"


def expand(pattern: str) -> list[str]:
    """`a-{08..10}.tar` to `a-08.tar`, `a-09.tar`, `a-10.tar`; the width of the first number is kept."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    if max(len(found[1]), len(found[2])) > 9 or int(found[2]) - int(found[1]) >= MOST_SHARDS:
        raise DataError(f"{pattern} names more than {MOST_SHARDS:,} shards.")
    low, high = int(found[1]), int(found[2])
    if high < low:
        raise DataError(f"{pattern}: {{{found[1]}..{found[2]}}} counts down. Write the smaller number first.")
    numbers = [f"{n:0{len(found[1])}d}" for n in range(low, high + 1)]
    return [text for n in numbers for text in expand(pattern[: found.start()] + n + pattern[found.end() :])]


def list_shards(name: str, split: str | None) -> ShardList:
    """The shards of a name without its `wds:`.

    Raises:
        DataError: no such split, no shards, a number of shards that is none.
    """
    if name.split("?")[0].endswith((".tar", ".tgz", ".tar.gz")):
        return _pattern(name, split)
    return _remote_folder(name.rstrip("/"), split) if "://" in name else _folder(Path(name).expanduser(), split)


def _pattern(pattern: str, split: str | None) -> ShardList:
    if split not in (None, "train", "all"):
        raise DataError(f"{pattern} names shards and has no split '{split}'. Name the shards of that split instead.")
    shards, name = expand(pattern), name_of_shards(pattern)
    if "://" in pattern:
        folders = [pattern.rsplit("/", 1)[0], pattern.rsplit("/", 2)[0]]
        texts = next((t for f in folders if not _RANGE.search(f) and (t := _remote_texts(f))), {})
        return ShardList(name, shards, pattern, texts)
    paths = [Path(shard).expanduser() for shard in shards]
    if missing := [path for path in paths if not path.is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{missing[0]}{more}: no such shard of {pattern}.")
    folder = paths[0].absolute().parent
    texts = _texts(folder) or _texts(folder.parent)
    return ShardList(name, [str(path) for path in paths], pattern, texts)


def _folder(folder: Path, split: str | None) -> ShardList:
    if (folder / "nshards.txt").is_file() and split in (None, folder.name):  # the folder of a split itself
        folder, split = folder.parent, folder.name
    there = sorted(path.parent.name for path in folder.glob("*/nshards.txt"))
    if not there:
        return _loose(folder, split)
    chosen = split or next((s for s in EVALUATED if s in there), there[0])
    if chosen not in there:
        raise DataError(f"{folder} has no split '{chosen}'; it has: {', '.join(there)}.")
    count = count_of((folder / chosen / "nshards.txt").read_text(encoding="utf-8"), f"{folder / chosen / 'nshards.txt'}")
    paths = [folder / chosen / f"{i}.tar" for i in range(count)]
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"{missing[0]} is missing: nshards.txt says that there are {count} shards. Fetch it again.")
    return ShardList(_set_name(folder.resolve().name), [str(p) for p in paths], f"{folder} ({chosen})", _texts(folder))


def _loose(folder: Path, split: str | None) -> ShardList:
    """Tar files in a folder, or in a folder for each split, without `nshards.txt`."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*/*.tar")):
        found.setdefault(path.parent.name, []).append(path)
    if loose := sorted(folder.glob("*.tar")):
        if split not in (None, "train", "all"):
            raise DataError(f"{folder} has no split '{split}': its shards lie in the folder itself.")
        return ShardList(_set_name(folder.resolve().name), [str(p) for p in loose], str(folder), _texts(folder))
    if not found:
        raise DataError(f"{folder} holds no .tar files.")
    chosen = split or next((s for s in EVALUATED if s in found), sorted(found)[0])
    if chosen not in found:
        raise DataError(f"{folder} has no split '{chosen}'; it has: {', '.join(sorted(found))}.")
    return ShardList(_set_name(folder.resolve().name), [str(p) for p in found[chosen]], f"{folder} ({chosen})", _texts(folder))


def _remote_folder(url: str, split: str | None) -> ShardList:
    url = hub_files(url)
    for chosen in (split,) if split else EVALUATED:
        text = read_url(f"{url}/{chosen}/nshards.txt")
        if text is not None:
            count = count_of(text, f"{url}/{chosen}/nshards.txt")
            shards = [f"{url}/{chosen}/{i}.tar" for i in range(count)]
            return ShardList(name_of_shards(url), shards, f"{url} ({chosen})", _remote_texts(url))
    raise DataError(
        f"{url} has no {split or 'test'}/nshards.txt. Give the folder of a set in CLIP_benchmark's layout, or shards."
    )


def hub_files(url: str) -> str:
    """A hub page `.../tree/main` as the address of its files, `.../resolve/main`."""
    found = _HUB_PAGE.match(url)
    return f"{found[1]}/resolve/{found[2]}" if found else url


def name_of_shards(place: str) -> str:
    """What the set is called: the part of the file name before the numbers, or the folder's name."""
    parts = [part for part in hub_files(place).split("?")[0].rstrip("/").split("/") if part]
    if not parts[-1].endswith((".tar", ".tgz", ".gz")):
        if parts[-2:-1] == ["resolve"]:  # a hub's address of a set: its name stands before the branch
            parts = parts[:-2]
        return _set_name(parts[-1])
    stem = re.sub(r"[-_.]*\d*(?:\{[^}]*\})?\.(?:tar|tgz|tar\.gz)$", "", parts[-1])
    return stem or (parts[-2] if len(parts) > 1 else "shards")


def _set_name(folder: str) -> str:
    """`wds_vtab-pets` (CLIP_benchmark's folder) is the table's `pets`."""
    from tima.data.field import field_sets

    return next((entry.name for entry in field_sets().values() if folder in entry.places), folder)


def count_of(text: str, where: str) -> int:
    stripped = text.strip()
    if not re.fullmatch("[0-9]{1,9}", stripped) or not 1 <= int(stripped) <= MOST_SHARDS:
        raise DataError(f"{where} holds {stripped[:40]!r}; it must hold the number of shards.")
    return int(stripped)


TEXTS = ("classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt")


def _texts(folder: Path) -> dict[str, str]:
    try:
        return {name: (folder / name).read_text(encoding="utf-8-sig") for name in TEXTS if (folder / name).is_file()}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder}: its text files cannot be read as UTF-8: {error}.") from error


def _remote_texts(url: str) -> dict[str, str]:
    return {name: text for name in TEXTS if (text := read_url(f"{url}/{name}")) is not None}
