"""The data sets of the field, from `field.yaml`: what each holds, how it is scored, whose it is, where it comes from."""

from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tima.errors import DataError

HUB_SHARDS = "https://huggingface.co/datasets/clip-benchmark/wds_{name}/tree/main"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """An archive or file of the publisher."""

    url: str
    md5: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")] | None = None
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None
    checksum_from: str | None = None
    into: str = ""  # folder inside the set's, for archives without one of their own
    then: tuple[str, ...] = ()  # archives inside the archive

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]


class FieldEntry(_Strict):
    """One set of the field. The keys are explained at the top of `field.yaml`."""

    name: str
    title: str
    about: str
    task: Literal["classification", "retrieval"] = "classification"
    classes: int = Field(default=0, ge=0)
    splits: dict[str, int]
    metric: Literal["accuracy", "mean per class", "AP", "recall"]
    size: str
    licence: str
    homepage: str
    templates: tuple[str, ...] = ()
    names: tuple[str, ...] | dict[str, str] | None = None
    folders: tuple[str, ...] = ()
    benchmark: str | None = None
    hub: str | None = None
    needs: str | None = None
    by_hand: str | None = None
    sources: tuple[Source, ...] = ()

    @property
    def chance(self) -> float:
        """Accuracy (or recall at 1) of a guess: one in so many classes, or one in so many pictures."""
        return 1 / (self.classes or next(iter(self.splits.values())))

    @property
    def places(self) -> tuple[str, ...]:
        """Names that the set's folder may have, the first one being where `get` puts it."""
        return (self.name, *self.folders)

    @property
    def shards_url(self) -> str | None:
        """CLIP_benchmark's shards of the set on the Hugging Face hub."""
        return None if self.benchmark is None else HUB_SHARDS.format(name=self.benchmark.replace("/", "-"))

    def how(self, root: str) -> str:
        """What to do to have the set in `root`."""
        shards = f", or its shards: tima data get {self.name} --shards" if self.shards_url else ""
        if self.sources:
            text = f"tima data get {self.name}   (from {self.homepage}{shards})"
        else:
            text = (self.by_hand or "").rstrip()
        return (text + (f"\n{self.needs}" if self.needs else "")).replace("{root}", root)


class _File(_Strict):
    version: int
    sets: dict[str, dict[str, object]]
    sixteen: tuple[str, ...]


@lru_cache
def _file() -> _File:
    text = (files("tima") / "data" / "field.yaml").read_text(encoding="utf-8")
    return _File(**yaml.safe_load(text))


@lru_cache
def field_sets() -> dict[str, FieldEntry]:
    """Every set of the table by its name, in the table's order."""
    return {name: FieldEntry(name=name, **values) for name, values in _file().sets.items()}  # type: ignore[arg-type]


def field_version() -> int:
    """Version of the table: changes when an entry changes its meaning."""
    return _file().version


def sixteen() -> list[str]:
    """The sixteen of the TeCoA family's tables, the training set first."""
    return list(_file().sixteen)


def field_entry(name: str) -> FieldEntry:
    """An entry by its name.

    Raises:
        DataError: no such entry.
    """
    if name not in field_sets():
        raise DataError(f"'{name}' is no set of the table. It holds: {', '.join(field_sets())}.")
    return field_sets()[name]
