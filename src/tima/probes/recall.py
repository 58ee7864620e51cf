"""Recall at k for pictures with several captions each.

Shapes: `N` images, `M` captions, `owner_M` the image of each caption. A tie counts against the model: one that gives every
pair the same similarity retrieves nothing.
"""

import torch
from torch import Tensor


def own_mask(owner_M: Tensor, image_B: Tensor) -> Tensor:
    """`BxM`: which captions belong to which image."""
    return image_B[:, None] == owner_M[None]


def image_to_text_rank(similarity_BM: Tensor, own_BM: Tensor) -> Tensor:
    """How many foreign captions come before (or level with) the image's best own one; found at k means rank < k."""
    best_B1 = similarity_BM.masked_fill(~own_BM, -torch.inf).amax(1, keepdim=True)
    return ((similarity_BM >= best_B1) & ~own_BM).sum(1)


def text_to_image_rank(similarity_NM: Tensor, owner_M: Tensor) -> Tensor:
    """How many other images come before (or level with) the caption's own one."""
    own_1M = similarity_NM.gather(0, owner_M[None])
    others_NM = similarity_NM.scatter(0, owner_M[None], -torch.inf)
    return (others_NM >= own_1M).sum(0)


def kth_other(similarity_NM: Tensor, owner_M: Tensor, k: int) -> Tensor:
    """`M`: the similarity of the k-th best other image: what the own one must stay above to be found at k."""
    others_NM = similarity_NM.scatter(0, owner_M[None], -torch.inf)
    return others_NM.topk(min(k, len(others_NM)), dim=0).values[-1]


def margin_image_to_text(similarity_BM: Tensor, own_BM: Tensor, k: int) -> Tensor:
    """k-th best foreign caption minus the best own one: from 0 on the image is lost at k. `k` is clipped to the pool."""
    best_B = similarity_BM.masked_fill(~own_BM, -torch.inf).amax(1)
    foreign_BM = similarity_BM.masked_fill(own_BM, -torch.inf)
    k = min(k, int((~own_BM).sum(1).min()))
    return foreign_BM.topk(k, dim=1).values[:, -1] - best_B


def margin_text_to_image(similarity_BM: Tensor, own_BM: Tensor, bar_M: Tensor, enough: float = 0.02) -> Tensor:
    """Sum over the own captions of `bar - similarity`, above 0 where the caption is lost.

    Beyond `enough` a caption counts only a hundredth: the effort goes to those that are still found.
    """
    margin_BM = bar_M[None] - similarity_BM
    bent_BM = torch.where(margin_BM > enough, enough + 0.01 * (margin_BM - enough), margin_BM)
    return bent_BM.masked_fill(~own_BM, 0).sum(1)


def worth(hit_M: Tensor, owner_M: Tensor) -> float:
    """How many independent captions these are worth, as captions of one image stand or fall together.

    `M` divided by the design effect (Kish 1965, Survey Sampling): the variance between images, with the factor `N / (N - 1)`,
    over that of independent captions. Between `N` and `M`; `N` where all outcomes are equal, for then nothing is known of
    their dependence.
    """
    number_N = owner_M.bincount().double()
    hits_N = owner_M.bincount(weights=hit_M.double(), minlength=len(number_N))
    n, m = len(number_N), len(owner_M)
    p = hits_N.sum() / m
    if n < 2 or p in (0, 1):
        return float(n)
    between = (hits_N - p * number_N).square().sum() / m**2 * n / (n - 1)
    return float((p * (1 - p) / between.clamp(min=1e-12)).clamp(n, m))
