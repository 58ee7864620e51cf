"""Random numbers that belong to one image, whatever was given: none, one generator for all, or one an image.

Shapes: `N` images in all.
"""

from collections.abc import Sequence

import torch

from tima.attacks.projections import Generators


def one_each(generator: Generators, number: int) -> list[torch.Generator]:
    """One generator an image. Those that are given one an image are taken as they are; a shared one, or torch's own, is asked
    for one seed an image, so that what an image draws does not depend on how long its neighbours search."""
    if isinstance(generator, Sequence):
        return list(generator)
    device = "cpu" if generator is None else generator.device
    seeds = torch.randint(2**62, (number,), generator=generator, device=device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def draw(generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Uniform numbers in [0, 1) of `shape` for each generator, stacked."""
    if not generators:
        return torch.empty(0, *shape, device=device)
    return torch.stack([torch.rand(shape, generator=g, device=g.device).cpu() for g in generators]).to(device)
