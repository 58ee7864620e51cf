"""Adversarial images that are kept: a few for people to look at, and those on which attack health is measured.

Both are drawn by the seed and carried from eps to eps: an image broken already keeps what broke it. Shapes: `N` images
evaluated, `G` gallery images, `K` all kept ones, `C` channels, `H, W` pixels, `E` eps.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tima.evaluation.judge import Judge


def choose_gallery(total: int, count: int, seed: int) -> Tensor:
    """Positions of `count` images drawn with `seed`: the same for every model, so that a report can put them side by side."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]


def choose_probe(correct_N: Tensor, count: int, seed: int) -> Tensor:
    """Positions of at most `count` images that are right when clean, drawn with `seed`, in order."""
    right = correct_N.nonzero()[:, 0]
    return right[torch.randperm(len(right), generator=torch.Generator().manual_seed(seed))[:count]].sort().values


def kept_positions(arrays: dict[str, Tensor], probe: int, seed: int) -> Tensor:
    """Positions of all images whose adversarial versions are kept, sorted."""
    gallery = arrays.get("gallery_index", torch.empty(0, dtype=torch.long))
    return torch.cat([gallery, choose_probe(arrays["correct_N"], probe, seed)]).unique()


def open_gallery(judge: "Judge", arrays: dict[str, Tensor]) -> None:
    """Keep the clean images, and make room for what each eps makes of the gallery."""
    image_KCHW = torch.zeros(0, *judge.source.shape)
    if len(judge.kept_K):
        image_KCHW = judge.load(arrays["index_N"][judge.kept_K])[0]
    judge.store.write_kept(-1, image_KCHW)
    if "gallery_index" not in arrays:
        return
    chosen_G, steps = arrays["gallery_index"], len(judge.protocol.eps)
    image_GCHW = image_KCHW[torch.searchsorted(judge.kept_K, chosen_G)]
    arrays["gallery_label"] = arrays["label_N"][chosen_G]
    arrays["gallery_clean"] = (image_GCHW * 255).round().to(torch.uint8)
    arrays["gallery_adv"] = image_GCHW.half().repeat(steps, 1, 1, 1, 1)
    _answers(arrays)


def fill_gallery(judge: "Judge", arrays: dict[str, Tensor], step: int) -> None:
    """What eps number `step` made of the gallery."""
    if "gallery_index" in arrays:
        kept_KCHW = judge.store.read_kept(step)
        arrays["gallery_adv"][step] = kept_KCHW[torch.searchsorted(judge.kept_K, arrays["gallery_index"])].half()
        _answers(arrays)


def _answers(arrays: dict[str, Tensor]) -> None:
    for name in ("prediction", "confidence"):
        arrays[f"gallery_{name}"] = arrays[f"{name}_EN"][:, arrays["gallery_index"]].clone()
