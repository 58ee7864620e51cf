"""Pictures of a set as one tensor, and embeddings in batches.

Shapes: `N` images, `B` images at a time, `D` embedding width, `S` pixels a side.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from tima.data.image_set import ImageSet, sample_indices
from tima.errors import DataError, ModelError
from tima.models import DualEncoder

Progress = Callable[[str, int, int], None]  # what is done, how much of it, of how much


def silent(what: str, done: int, total: int) -> None:
    """No progress bar."""


def sampled(images: ImageSet, samples: int | None, seed: int) -> tuple[ImageSet, Tensor]:
    """`images.sample(...)` (all for None), and each picture's index in the whole set, which random draws go by."""
    if samples is None or samples >= len(images):
        return images, torch.arange(len(images))
    return images.sample(samples, seed), sample_indices(len(images), samples, seed)


def load_pixels(images: ImageSet) -> tuple[Tensor, Tensor, list[str]]:
    """Every picture that can be read.

    Returns:
        uint8 `N3SS`, the indices of these pictures in the set, and what could not be read with the reason.

    Raises:
        DataError: none can be read.
    """
    batch = images.collate([images[i] for i in range(len(images))])
    if not len(batch.index_B):
        raise DataError(f"'{images.name}': no picture can be read; the first: {batch.bad[0].where}: {batch.bad[0].why}.")
    return batch.image_BCHW, batch.index_B, [f"{bad.where}: {bad.why}" for bad in (*images.quarantine, *batch.bad)]


def chunks(n: int, size: int) -> Iterator[slice]:
    """`0..n` in slices of `size`."""
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))


@torch.no_grad()
def embed(model: DualEncoder, image_NCHW: Tensor, batch_size: int) -> Tensor:
    """Unit-norm `image_ND` of uint8 pictures or of float pixels in [0, 1]."""
    device = next(model.parameters()).device
    parts = []
    for part in chunks(len(image_NCHW), batch_size):
        pixel_BCHW = image_NCHW[part].to(device)
        parts.append(model.encode_image(pixel_BCHW if pixel_BCHW.is_floating_point() else pixel_BCHW.float() / 255))
    return finite(torch.cat(parts), "embeddings of images")


@torch.no_grad()
def embed_texts(model: DualEncoder, texts: list[str], chunk: int = 256) -> Tensor:
    """Unit-norm `text_MD`."""
    return finite(torch.cat([model.encode_text(texts[part]) for part in chunks(len(texts), chunk)]), "embeddings of texts")


def finite(value: Tensor, what: str) -> Tensor:
    """The tensor itself. NaN compares with nothing, so a broken model would find everything or always answer class 0.

    Raises:
        ModelError: NaN or infinite numbers in it.
    """
    if not bool(value.isfinite().all()):
        raise ModelError(
            f"The model's {what} hold NaN or infinite numbers: a score from them means nothing. Check its weights."
        )
    return value


def generators(seed: int, index_B: Tensor) -> list[torch.Generator]:
    """One an image, by its index in the set: results do not depend on batch size or on the sample's other images."""
    return [torch.Generator().manual_seed(seed * 1_000_003 + int(index)) for index in index_B]
