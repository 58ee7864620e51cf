"""`get`: a set of the field from its publisher, or as CLIP_benchmark's shards from the hub, into a folder of its own."""

from collections.abc import Callable
from pathlib import Path

from tima.data.download import download, read_url
from tima.data.field import FieldEntry, Source
from tima.data.manifest import write_manifest
from tima.data.places import data_home
from tima.data.unpack import is_archive, unpack
from tima.data.wds.places import TEXTS, count_of, hub_files
from tima.errors import DataError

Progress = Callable[[str, int, int | None], None]


def get(
    entry: FieldEntry,
    root: Path | None = None,
    *,
    shards: bool = False,
    split: str = "test",
    keep: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Fetch a set into `root/<name>` and note checksums of what is there afterwards. Goes on where it was stopped.

    Args:
        root: by default the first folder of `TIMA_DATA`, else the cache.
        shards: CLIP_benchmark's shards of one split instead of the publisher's archives.
        keep: do not delete archives after they are unpacked.
        progress: is told file, bytes so far and bytes in all.

    Raises:
        DataError: the set must be fetched by hand (the message says how), a download or archive is not what it should be.
        TimaError: the disk is full.
    """
    root = root or data_home()
    folder = root / entry.name
    if shards:
        if entry.shards_url is None:
            raise DataError(f"{entry.title} is not among CLIP_benchmark's shards. {entry.how(str(root))}")
        notes = _get_shards(hub_files(entry.shards_url), folder, split, progress)
    else:
        if not entry.sources:
            raise DataError(f"{entry.title} has no public download.\n{entry.how(str(root))}")
        notes = [_get_source(source, folder, keep, progress) for source in entry.sources]
    write_manifest(folder, notes)
    return folder


def _get_source(source: Source, folder: Path, keep: bool, progress: Progress | None) -> dict[str, str]:
    done = folder / f".{source.file}.done"  # what came of it, so that a second call need not fetch what is unpacked
    note = {"url": source.url, "checksum": source.sha256 or source.md5 or "none published"}
    target = folder / source.into if source.into else folder
    if done.is_file() and all((target / name).exists() for name in done.read_text(encoding="utf-8").splitlines()):
        return note
    file = download(
        source.url,
        folder / source.file,
        md5=source.md5,
        sha256=source.sha256,
        progress=None if progress is None else lambda have, total: progress(source.file, have, total),
    )
    made = [file]
    if is_archive(source.file):
        made = unpack(file, target)
        for inner in source.then:
            made += unpack(target / inner, target)
        if not keep:
            file.unlink()
    done.write_text("".join(f"{path.name}\n" for path in made), encoding="utf-8")
    return note


def _get_shards(url: str, folder: Path, split: str, progress: Progress | None) -> list[dict[str, str]]:
    count = (read_url(f"{url}/{split}/nshards.txt") or "").strip()
    if not count:
        raise DataError(f"{url} has no {split}/nshards.txt. Is there a split of that name?")
    shards = count_of(count, f"{url}/{split}/nshards.txt")
    names = [name for name in TEXTS if (text := read_url(f"{url}/{name}")) is not None and _keep(folder / name, text)]
    for i in range(shards):
        name = f"{split}/{i}.tar"
        if not (folder / name).is_file():  # downloads get their names when they are whole
            told = None if progress is None else lambda have, total, name=name: progress(name, have, total)
            download(f"{url}/{name}", folder / name, progress=told)
    _keep(folder / split / "nshards.txt", count + "\n")  # last: without it the split is not there
    return [{"url": url, "split": split, "texts": ", ".join(names)}]


def _keep(file: Path, text: str) -> bool:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return True
