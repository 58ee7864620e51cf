"""The frozen original's image embeddings, kept by picture: with `augment` none or flip each comes again in every epoch.

The key is the pixels themselves, so a flipped picture is another one, and nothing need be known of indices, epochs or
processes. Of several processes each keeps what it met, and meets other pictures in the next epoch: they find less. What is not
there is computed in pieces of one size, so that an embedding has the same bits whatever else was in its batch, and a resumed
run, whose cache is empty, ends where it would have ended.

Shapes: `B` images, `C` channels, `H, W` pixels, `D` embedding width.
"""

import hashlib
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.models import DualEncoder

PIECE = 8  # images computed at once: small, since late in a run few are missing


class TeacherCache:
    """Stands for `teacher.encode_image`.

    Args:
        teacher: frozen.
        limit: bytes of embeddings kept; those not asked for longest go first.

    Attributes:
        hits, misses: images so far.
    """

    def __init__(self, teacher: DualEncoder, limit: int) -> None:
        self.encode, self.limit = teacher.encode_image, limit
        self.kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self.hits = self.misses = 0

    def __call__(self, image_BCHW: Tensor, *, normalize: bool = True) -> Tensor:
        """As `encode_image`. Where a gradient is to reach the pixels, the teacher itself."""
        if image_BCHW.requires_grad and torch.is_grad_enabled():
            return self.encode(image_BCHW, normalize=normalize)
        pixels = image_BCHW.detach().cpu().contiguous().numpy()
        keys = [hashlib.blake2b(image, digest_size=16).digest() for image in pixels]
        missing = [i for i, key in enumerate(keys) if key not in self.kept]
        self.hits, self.misses = self.hits + len(keys) - len(missing), self.misses + len(missing)
        now = {key: self.kept[key] for key in keys if key in self.kept}
        for start in range(0, len(missing), PIECE):
            some = missing[start : start + PIECE]
            padded = some + [some[-1]] * (PIECE - len(some))
            with torch.no_grad():
                feature_BD = self.encode(image_BCHW[padded], normalize=False)
            now.update({keys[i]: feature.clone() for i, feature in zip(some, feature_BD, strict=False)})
        for key in keys:
            self.kept[key] = now[key]
            self.kept.move_to_end(key)
        while self.kept and len(self.kept) * next(iter(self.kept.values())).numel() * 4 > self.limit:
            self.kept.popitem(last=False)
        found_BD = torch.stack([now[key] for key in keys]) if keys else self.encode(image_BCHW, normalize=False)
        return F.normalize(found_BD, dim=-1) if normalize else found_BD


def remember(teacher: DualEncoder, limit: int) -> TeacherCache:
    """Put a cache before the teacher's `encode_image`; `encode_anew` goes past it."""
    cache = TeacherCache(teacher, limit)
    teacher.encode_anew = cache.encode  # type: ignore[assignment]
    teacher.encode_image = cache  # type: ignore[method-assign, assignment]
    return cache
