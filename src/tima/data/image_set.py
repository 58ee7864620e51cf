"""`ImageSet`: labelled pictures on disk, decoded on demand to the model's input grid.

Shapes: `B` images, `C` channels or classes (see suffix), `H, W` pixels. Images are uint8 until the training or
evaluation loop divides by 255, so that a batch costs a quarter of the memory on its way there.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tima.data.decoding import decode
from tima.errors import DataError

DEFAULT_TEMPLATES = ("a photo of a {c}.",)
_same_names: ContextVar[bool] = ContextVar("same_names", default=False)


@contextmanager
def same_names_allowed() -> Iterator[None]:
    """Sets opened inside may give two classes one name. For whoever decides later what becomes of them, as evaluation does."""
    before = _same_names.set(True)
    try:
        yield
    finally:
        _same_names.reset(before)


@dataclass(frozen=True)
class BadImage:
    """One picture that was left out: where it is and why."""

    where: str
    why: str


@dataclass(frozen=True)
class Batch:
    """What the loaders yield: uint8 images, labels, and the index of each image in its set."""

    image_BCHW: Tensor
    label_B: Tensor
    index_B: Tensor
    bad: tuple[BadImage, ...] = ()


@dataclass
class ImageSet(Dataset):  # type: ignore[type-arg]
    """A labelled set of pictures.

    Attributes:
        name: what tables and results call it.
        class_names: one readable name a class; index = label.
        templates: prompts with `{c}` where the class name goes.
        label_B: class index of every image.
        read: `index -> bytes | path` of the encoded picture.
        where: `index -> text` that names the picture in messages.
        image_size: pictures come as `3 x image_size x image_size`.
        caption_B: free text for each image, where the set has it.
        shard_B: which piece of storage (a tar file, a row group) each image lies in, where reading piece by piece is cheaper;
            training then goes through the pieces a few at a time.
        same_names: two classes may have one name; see `same_names_allowed`.
        quarantine: files left out when the set was opened; subsets carry it along. Pictures found unreadable later come
            as `BadImage` in a `Batch`. Never silent: evaluation and training report both.
    """

    name: str
    class_names: list[str]
    label_B: Tensor
    read: Callable[[int], bytes | Path]
    where: Callable[[int], str]
    image_size: int = 224
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    caption_B: list[str] | None = None
    quarantine: list[BadImage] = field(default_factory=list)
    decoded: dict[int, Tensor] | None = None  # filled by `preload`
    shard_B: Tensor | None = None
    same_names: bool = False

    def __post_init__(self) -> None:
        self.same_names = self.same_names or _same_names.get()
        check_class_names(self.class_names, self.name, same_names=self.same_names)
        check_templates(self.templates, self.name)
        if len(self.label_B) == 0:
            raise DataError(f"Data set '{self.name}' holds no images.")
        low, high = int(self.label_B.min()), int(self.label_B.max())
        if low < 0 or high >= len(self.class_names):
            wrong = int(((self.label_B < 0) | (self.label_B >= len(self.class_names))).nonzero()[0])
            raise DataError(
                f"{self.where(wrong)}: label {int(self.label_B[wrong])} is out of range, '{self.name}' has "
                f"{len(self.class_names)} classes (0 to {len(self.class_names) - 1})."
            )

    def __len__(self) -> int:
        return len(self.label_B)

    def __getitem__(self, index: int) -> tuple[Tensor | BadImage, int, int]:
        """The picture as uint8 `3 x S x S` (or why it cannot be read), its label and its index."""
        label = int(self.label_B[index])
        if self.decoded is not None and index in self.decoded:
            return self.decoded[index], label, index
        try:
            return decode(self.read(index), self.image_size), label, index
        except Exception as error:  # a damaged file makes PIL's readers raise nearly anything; none of it ends a run
            return BadImage(self.where(index), f"{type(error).__name__}: {error}"), label, index

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor | BadImage, int, int]]:
        return [self[int(i)] for i in indices]

    def preload(self, limit_bytes: int = 1 << 30) -> "ImageSet":
        """Decode everything once and keep it, when it fits in `limit_bytes`; small sets train far faster so."""
        if self.decoded is None and len(self) * 3 * self.image_size**2 <= limit_bytes:
            items = (self[i] for i in range(len(self)))
            self.decoded = {i: image for image, _, i in items if isinstance(image, Tensor)}
        return self

    def at_size(self, image_size: int) -> "ImageSet":
        """The same set decoded to another input grid."""
        return self._copy(image_size=image_size, decoded=None)

    def subset(self, indices: Sequence[int] | Tensor) -> "ImageSet":
        """The images with these indices, in this order; class list unchanged."""
        keep = [int(i) for i in indices]
        return self._copy(
            label_B=self.label_B[keep],
            read=Reindexed(self.read, keep),
            where=Reindexed(self.where, keep),
            caption_B=[self.caption_B[i] for i in keep] if self.caption_B else None,
            shard_B=None if self.shard_B is None else self.shard_B[keep],
            decoded={new: self.decoded[old] for new, old in enumerate(keep) if old in self.decoded} if self.decoded else None,
        )

    def keep_classes(self, classes: Sequence[int]) -> "ImageSet":
        """Only these classes, renumbered in the order given."""
        new_label = {old: new for new, old in enumerate(classes)}
        kept = self.subset([i for i, label in enumerate(self.label_B.tolist()) if label in new_label])
        label_B = torch.tensor([new_label[label] for label in kept.label_B.tolist()])
        return kept._copy(class_names=[self.class_names[c] for c in classes], label_B=label_B)

    def sample(self, n: int, seed: int) -> "ImageSet":
        """`n` images drawn without replacement by `seed` (all of them when there are fewer), in index order."""
        if n < 1:
            raise DataError(f"'{self.name}': a sample of {n} images is no sample. Ask for at least one.")
        if n >= len(self):
            return self
        return self.subset(sample_indices(len(self), n, seed))

    def _copy(self, **changes: Any) -> "ImageSet":
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return ImageSet(**{**values, "quarantine": list(self.quarantine), **changes})

    def collate(self, items: Sequence[tuple[Tensor | BadImage, int, int]]) -> Batch:
        """Stack what could be read; list what could not."""
        good = [(image, label, index) for image, label, index in items if isinstance(image, Tensor)]
        bad = tuple(image for image, _, _ in items if isinstance(image, BadImage))
        side = self.image_size
        images = torch.stack([g[0] for g in good]) if good else torch.empty(0, 3, side, side, dtype=torch.uint8)
        return Batch(images, torch.tensor([g[1] for g in good]), torch.tensor([g[2] for g in good]), bad)


def sample_indices(total: int, samples: int | None, seed: int) -> Tensor:
    """Which of `total` images a seed draws, in index order; all of them when there are no more, or for None."""
    if samples is None or samples >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:samples].sort().values


@dataclass(frozen=True)
class Reindexed:
    """`inner(keep[index])`: a class and not a lambda, so that loaders can send a set to their worker processes."""

    inner: Callable[[Any], Any]
    keep: Sequence[Any]

    def __call__(self, index: int) -> Any:
        return self.inner(self.keep[index])


def check_class_names(class_names: Sequence[str], where: str, *, same_names: bool = False) -> None:
    """Raise `DataError` for an empty list, an empty name or, unless `same_names` is set, a name given twice (after trimming
    and lower-casing)."""
    if isinstance(class_names, str):  # a string is a sequence too: it would become one class a character
        raise DataError(f"{where}: class names must be a list, not one string. Write [{class_names!r}].")
    if not class_names:
        raise DataError(f"{where}: the class list is empty. Give at least one class name.")
    seen: dict[str, int] = {}
    clashes: list[str] = []
    for index, name in enumerate(class_names):
        key = " ".join(str(name).lower().split())
        if not key:
            raise DataError(f"{where}: class {index} has an empty name.")
        if key in seen:
            clashes.append(f"'{name}' (classes {seen[key]} and {index})")
        seen.setdefault(key, index)
    if clashes and not same_names:
        raise DataError(
            f"{where}: class names given twice: {', '.join(clashes)}. Two classes with one text cannot be told apart; "
            "rename one of each."
        )


def check_templates(templates: Sequence[str], where: str) -> None:
    """Raise `DataError` unless there is a template and each contains `{c}`."""
    if isinstance(templates, str):
        raise DataError(f"{where}: templates must be a list, not one string. Write [{templates!r}].")
    if not templates:
        raise DataError(f"{where}: the template list is empty. 'a photo of a {{c}}.' is a good first one.")
    for template in templates:
        if "{c}" not in template:
            raise DataError(f"{where}: template {template!r} has no '{{c}}' to put the class name in.")
