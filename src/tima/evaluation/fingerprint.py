"""Which pixels were attacked: a hash of every image, and whether what is handed in later is the same.

The hash of an image covers its fp32 pixels on the grid of eps, after decoding and preprocessing: what the attack gets, whatever
file it came from. All images are hashed once, while the clean pass has them in memory, in about a millisecond each at 224 px;
a call that goes on reads again at most `LOOK` of them. Shapes: `N` images, `B` images of a batch, `C` channels, `H, W` pixels.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from tima.errors import DataError
from tima.evaluation.source import Source

LOOK = 32  # images that are compared when an evaluation goes on, spread over all of them


def image_hashes(image_BCHW: Tensor) -> Tensor:
    """`image_hash_B` (int64): the first 8 bytes of the SHA-256 of each image's fp32 pixels."""
    pixel_BCHW = image_BCHW.detach().float().cpu().contiguous()
    found = [hashlib.sha256(image.numpy().data).digest()[:8] for image in pixel_BCHW]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in found], dtype=torch.long)


def images_sha256(index_N: Tensor, label_N: Tensor, image_hash_N: Tensor, shape: tuple[int, ...]) -> str:
    """Of everything that was attacked: shape, and of each image its place in the set, its class and its pixels."""
    rows = torch.stack([index_N.long(), label_N.long(), image_hash_N], 1).contiguous()
    return hashlib.sha256(f"{tuple(shape)}\n".encode() + rows.numpy().tobytes()).hexdigest()


def check_same_images(source: Source, arrays: dict[str, Tensor], where: Path) -> None:
    """Raise `DataError` when a stored result was made on other images: changed pixels or labels, another split or folder."""
    index_N, label_N = arrays["index_N"], arrays["label_N"]
    same = int(index_N.max()) < len(source.label_N) and torch.equal(source.label_N[index_N], label_N)
    if same and "image_hash_N" in arrays:  # results of schema 2 have none
        look_B = torch.linspace(0, len(index_N) - 1, min(LOOK, len(index_N))).long()
        loaded = source.load(index_N[look_B])
        same = torch.equal(loaded.index_B, index_N[look_B])  # one of them cannot be read any more
        same = same and torch.equal(image_hashes(loaded.image_BCHW), arrays["image_hash_N"][look_B])
    if not same:
        raise DataError(
            f"{where} is the result of other images than '{source.name}' has now: the pictures or labels have changed, are "
            "decoded otherwise here, or another split or folder of that name was evaluated there. Delete that result, or give "
            "another --out."
        )
