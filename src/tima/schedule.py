"""What changes with the step: learning rate, eps, and the order of the data. All are functions of the step alone,
so that a resumed run needs no state for them.
"""

import math
from collections.abc import Iterator

import torch

from tima.config import TrainRecipe
from tima.data.order import epoch_order


def lr_factor(recipe: TrainRecipe, step: int) -> float:
    """Linear warm-up, then cosine to zero, as a factor of `recipe.lr`."""
    warm = round(recipe.warmup * recipe.steps)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


def eps_at(recipe: TrainRecipe, step: int) -> float:
    """eps grows linearly over the first `eps_warmup` of the steps."""
    warm = round(recipe.eps_warmup * recipe.steps)
    return recipe.eps * min(1.0, (step + 1) / warm) if warm else recipe.eps


def attack_step_size(recipe: TrainRecipe, eps: float) -> float:
    """`eps` itself for 1/255 and below, else `2.5 eps / K` but at most eps (method.md, the inner maximisation)."""
    if recipe.attack.step_size is not None:
        return min(recipe.attack.step_size, eps)
    return eps if eps <= 1.001 / 255 else min(eps, 2.5 * eps / recipe.attack.steps)


def step_seed(seed: int, step: int, stream: int) -> int:
    """A seed of its own for every (run, step, purpose)."""
    return (seed * 1_000_003 + step) * 101 + stream


def image_seeds(n: int, seed: int) -> list[int]:
    """A seed for each of `n` images, by its place: what an image draws is then its own, wherever the others are."""
    found: list[int] = torch.randint(2**62, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    return found


def batches(
    n: int, batch_size: int, seed: int, first_step: int, steps: int, shard_B: torch.Tensor | None = None
) -> Iterator[list[int]]:
    """Indices of every batch from `first_step` on: a new permutation each epoch, the remainder of an epoch left out.

    Args:
        n: images in the set.
        batch_size: images per step over all processes; cut to `n`.
        shard_B: the shard of each image, when reading shard by shard is cheaper (see `tima.data.order`).
    """
    batch_size = min(batch_size, n)
    per_epoch = n // batch_size
    order, order_epoch = torch.empty(0), -1
    for step in range(first_step, steps):
        epoch, position = divmod(step, per_epoch)
        if epoch != order_epoch:
            order = epoch_order(n, torch.Generator().manual_seed(step_seed(seed, epoch, 1)), shard_B)
            order_epoch = epoch
        yield order[position * batch_size : (position + 1) * batch_size].tolist()
