"""What the student learns from: picture-text pairs, and texts without pictures.

Shapes: `N` pictures, `K` texts, `S` pixels a side.
"""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import Tensor

from tima.data import ImageSet, decode, find_data
from tima.data.table import embedded_folder
from tima.pretrain.recipe import PretrainRecipe


@dataclass
class Pairs:
    """Pictures with their class name (or caption) each. `decode_at(i, size)` gives uint8 `3 x size x size`."""

    text_N: list[str]
    is_caption_N: list[bool]
    decode_at: Callable[[int, int], Tensor]
    class_names: list[str]
    spans: dict[str, range]  # the pictures of each source, in order
    weight_N: Tensor  # how often each is drawn, up to a factor

    @property
    def corpora(self) -> dict[str, int]:
        """Pictures of each source."""
        return {name: len(span) for name, span in self.spans.items()}

    def digest(self, source: str) -> str:
        """Changes when the source's pictures or texts do; names the source's cached files."""
        span = self.spans[source]
        return text_digest(self.text_N[span.start : span.stop])

    def __len__(self) -> int:
        return len(self.text_N)


def gather_pairs(recipe: PretrainRecipe) -> Pairs:
    """All picture sources of the recipe as one list of pairs. Labelled sets give the class name, to be put into a template."""
    texts: list[str] = []
    is_caption: list[bool] = []
    readers: list[Callable[[int], bytes | Path]] = []
    class_names: dict[str, None] = {}
    spans: dict[str, range] = {}
    weights: list[float] = []
    for source in recipe.images:
        first = len(texts)
        images = find_data(source.data)
        keep = _per_class(images, source.per_class, recipe.seed)
        class_names.update(dict.fromkeys(images.class_names))
        for i in keep:
            # half of the captioned pictures speak through their caption, half through their class
            caption = images.caption_B[i] if images.caption_B and i % 2 else None
            texts.append(caption or images.class_names[int(images.label_B[i])])
            is_caption.append(bool(caption))
            readers.append(lambda _, i=i, read=images.read: read(i))  # type: ignore[misc]
        spans[images.name] = range(first, len(texts))
        weights += [source.weight] * len(keep)
    for file in recipe.captions:
        first = len(texts)
        path = Path(file) if Path(file).is_file() else embedded_folder() / file
        table = pq.read_table(path)
        column, captions = table.column("image"), table.column("caption").to_pylist()
        for i, caption in enumerate(captions):
            texts.append(caption)
            is_caption.append(True)
            readers.append(lambda _, i=i, column=column: column[i].as_py()["bytes"])  # type: ignore[misc]
        spans[path.stem] = range(first, len(texts))
        weights += [recipe.caption_weight] * len(captions)
    return Pairs(
        texts, is_caption, lambda i, size: decode(readers[i](i), size), list(class_names), spans, torch.tensor(weights)
    )


def text_digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:10]


def _per_class(images: ImageSet, per_class: int | None, seed: int) -> list[int]:
    if per_class is None:
        return list(range(len(images)))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    taken: dict[int, int] = {}
    keep = []
    for i in order:
        label = int(images.label_B[i])
        if taken.get(label, 0) < per_class:
            taken[label] = taken.get(label, 0) + 1
            keep.append(i)
    return sorted(keep)


def gather_texts(recipe: PretrainRecipe, pairs: Pairs) -> tuple[list[str], list[str]]:
    """The texts that the text tower is distilled on, and the bank of nouns that image distillation uses."""
    rng = random.Random(recipe.seed)
    nouns = _lines(recipe.nouns)
    texts: dict[str, None] = {}
    for rank, noun in enumerate(nouns):
        chosen = recipe.templates[:5] if rank < recipe.frequent_nouns else [rng.choice(recipe.templates)]
        texts.update(dict.fromkeys(t.replace("{c}", noun) for t in ["{c}", *chosen]))
    for name in pairs.class_names:
        texts.update(dict.fromkeys(t.replace("{c}", name) for t in recipe.templates))
    texts.update(dict.fromkeys(_lines(recipe.sentences)))
    texts.update(dict.fromkeys(text for text, free in zip(pairs.text_N, pairs.is_caption_N, strict=True) if free))
    bank = dict.fromkeys([*pairs.class_names, *nouns[: recipe.bank_nouns]])
    return list(texts), list(bank)


def _lines(path: str | None) -> list[str]:
    return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()] if path else []
