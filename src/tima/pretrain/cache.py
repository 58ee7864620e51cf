"""What is computed once: decoded pictures, and the teacher's embeddings. Written shard by shard, resumed shard by shard."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from tima._files import atomic_path
from tima.models import DualEncoder
from tima.pretrain.sources import Pairs, text_digest

SHARD = 4096


def cached(folder: Path, name: str, total: int, make: Callable[[range], Tensor], shard: int = SHARD) -> Tensor:
    """`make(range)` for every shard of `total`, from disk where it is already there."""
    parts = []
    folder.mkdir(parents=True, exist_ok=True)
    for start in track(range(0, total, shard), description=name):
        file = folder / f"{name}-{start:07d}.safetensors"
        if not file.is_file():
            value = make(range(start, min(start + shard, total)))
            with atomic_path(file) as part:
                save_file({"value": value.contiguous()}, part)
        parts.append(load_file(file)["value"])
    return torch.cat(parts)


def pictures(folder: Path, pairs: Pairs, size: int) -> Tensor:
    """`image_NCSS` uint8."""

    def make(indices: range) -> Tensor:
        return torch.stack([pairs.decode_at(i, size) for i in indices])

    return _by_source(folder, f"pictures{size}", pairs, make, SHARD)


@torch.no_grad()
def teacher_images(folder: Path, teacher: DualEncoder, pairs: Pairs, size: int | None, bf16: bool) -> Tensor:
    """Unit-norm teacher embeddings `v0_ND` of the un-augmented pictures, float16."""
    size = size or teacher.image_size

    def make(indices: range) -> Tensor:
        parts = []
        for start in range(indices.start, indices.stop, 64):
            batch = [pairs.decode_at(i, size) for i in range(start, min(start + 64, indices.stop))]
            pixels = (torch.stack(batch) / 255 - teacher.mean_C11) / teacher.std_C11
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                parts.append(F.normalize(teacher._image_features(pixels).float(), dim=-1).half())
        return torch.cat(parts)

    return _by_source(folder, f"teacher-images{size}", pairs, make, 1024)


def _by_source(folder: Path, name: str, pairs: Pairs, make: Callable[[range], Tensor], shard: int) -> Tensor:
    """Each source has files of its own, named after its content: changing one source leaves the others' work valid."""
    parts = []
    for source, span in pairs.spans.items():
        shifted = lambda r, first=span.start: make(range(r.start + first, r.stop + first))  # noqa: E731
        parts.append(cached(folder, f"{name}-{source}-{pairs.digest(source)}", len(span), shifted, shard))
    return torch.cat(parts)


@torch.no_grad()
def teacher_texts(folder: Path, teacher: DualEncoder, texts: Sequence[str], name: str, bf16: bool) -> Tensor:
    """Unit-norm teacher embeddings `t0_KD`, float16. Sorted by length inside a shard, so that little is padding."""

    def make(indices: range) -> Tensor:
        order = sorted(indices, key=lambda i: len(texts[i]))
        out = torch.empty(len(indices), teacher.embed_dim, dtype=torch.float16)
        for start in range(0, len(order), 128):
            rows = order[start : start + 128]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                embedding = teacher.encode_text([texts[i] for i in rows])
            out[torch.tensor(rows) - indices.start] = embedding.half()
        return out

    return cached(folder, f"{name}-{text_digest(list(texts))}", len(texts), make)
