"""The order of an epoch: a new permutation, or one that goes through a few shards at a time. Shapes: `B` images.

Everything is a function of the generator's seed, so that a resumed run and every process work out the same order.
"""

import torch
from torch import Tensor

WINDOW = 16  # shards that are mixed with each other: at 10,000 images each, a shuffle over 160,000


def epoch_order(n: int, generator: torch.Generator, shard_B: Tensor | None = None, window: int = WINDOW) -> Tensor:
    """Each of `n` indices once.

    Args:
        shard_B: the shard of each image. The shards are shuffled and gone through `window` at a time; within a window all
            images are shuffled. Up to `window` shards this is an ordinary permutation in another sequence.
    """
    if shard_B is None:
        return torch.randperm(n, generator=generator)
    shards = shard_B.unique()
    place = torch.empty(int(shards.max()) + 1, dtype=torch.long)
    place[shards] = torch.randperm(len(shards), generator=generator)
    group_B = place[shard_B.long()] // window
    shuffled = torch.randperm(n, generator=generator)
    return shuffled[torch.sort(group_B[shuffled], stable=True).indices]
