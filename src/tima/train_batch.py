"""A training step's images, labels and, where the method asks for them, captions; and the random numbers that go with them.

Every random number belongs to a step and to an image's place in its batch, so that neither the number of processes nor the
number of parts has a say in it. Shapes: `B` images, `C` channels, `H, W` pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from tima.class_sample import ClassSample, draw_classes
from tima.config import TrainRecipe
from tima.data import ImageSet
from tima.data.augment import augment
from tima.distributed import Team
from tima.errors import TrainingError
from tima.schedule import batches, image_seeds, step_seed
from tima.train_log import TrainLog

T = TypeVar("T")


@dataclass(frozen=True)
class TrainBatch:
    """One process's share of a step; images are uint8.

    Attributes:
        classes: the step's sample, the same in every process and every part.
        place_B: of each image in the step's whole batch; None: these are the whole batch.
        places: images in that batch, those that cannot be read among them.
        total: images of it that can be read, over all processes.
        rows: for each part of the batch, how many of these each process holds; empty: this is all of it, in no parts yet.
        rank: which process this is.
    """

    image_BCHW: Tensor
    label_B: Tensor
    captions: Sequence[str] | None = None
    classes: ClassSample | None = None
    place_B: Tensor | None = None
    places: int = 0
    total: int = 0
    rows: tuple[tuple[int, ...], ...] = ()
    rank: int = 0

    def __post_init__(self) -> None:
        if self.place_B is None:
            n = len(self.label_B)
            for name, value in (("place_B", torch.arange(n)), ("places", n), ("total", n)):
                object.__setattr__(self, name, value)

    def parts(self, count: int) -> list["TrainBatch"]:
        """`count` pieces whose sizes differ by one at most, in order; fewer only where there are fewer images."""
        assert self.place_B is not None
        rows = self.rows or tuple((len(part[0]),) for part in cut(range(len(self.label_B)), count, Team()))
        found, start = [], 0
        for part in rows:
            row_B = torch.arange(start, start := start + part[self.rank])
            texts = None if self.captions is None else [self.captions[i] for i in row_B.tolist()]
            piece = (self.image_BCHW[row_B], self.label_B[row_B], texts, self.classes, self.place_B[row_B])
            found.append(TrainBatch(*piece, self.places, self.total, (part,), self.rank))
        return found

    def pixels(self, recipe: TrainRecipe, step: int) -> Tensor:
        """The images in [0, 1], augmented where they are; random numbers are drawn on the CPU, the same for every device."""
        pixel_BCHW = self.image_BCHW.float() / 255
        generator = torch.Generator().manual_seed(step_seed(recipe.seed, step, 5000))
        if recipe.augment == "flip":
            flip_B = torch.rand(self.places, generator=generator)[self.place_B] < 0.5
            flip_B = flip_B.to(pixel_BCHW.device)
            return torch.where(flip_B[:, None, None, None], pixel_BCHW.flip(-1), pixel_BCHW)
        if recipe.augment == "crop":
            return augment(pixel_BCHW, generator, grey=0.0, jitter=0.0, place_B=self.place_B, places=self.places)
        return pixel_BCHW

    def generators(self, recipe: TrainRecipe, step: int, device: torch.device) -> list[torch.Generator]:
        """One an image, for the inner attack."""
        assert self.place_B is not None
        seeds = image_seeds(self.places, step_seed(recipe.seed, step, 10))
        return [torch.Generator(device).manual_seed(seeds[i]) for i in self.place_B.tolist()]


def cut(items: Sequence[T], count: int, team: Team) -> list[list[list[T]]]:
    """A batch in `count` parts, each in slices, one a process: what is seen together is so with any number of processes.

    Fewer parts only where a process would go without an image in one: processes would wait for each other for ever.
    """
    count = max(1, min(count, len(items) // team.size))
    return [team.shares(part) for part in Team(size=count).shares(items)]


def stream(
    images: ImageSet, recipe: TrainRecipe, captions: bool, first: int, team: Team, log: TrainLog
) -> Iterator[tuple[int, TrainBatch]]:
    """Every step's batch; each process takes its slice of the same global batch.

    Pictures that cannot be read are left out, and the slices are cut anew from the others: all processes see the batch that
    one process would see.

    Raises:
        TrainingError: fewer pictures than processes, in the whole batch or among those that can be read.
    """
    if (size := min(recipe.batch_size, len(images))) < team.size:
        raise TrainingError(
            f"A batch of {size} pictures cannot be shared by {team.size} processes. Take a larger batch_size or fewer."
        )
    plan = Plan(images, recipe, first, team)
    loader = iter(
        torch.utils.data.DataLoader(images, batch_sampler=plan, collate_fn=images.collate, num_workers=recipe.workers)
    )
    for step, indices in enumerate(plan.whole(), start=first):
        batch, parts = _read(loader, images, indices, recipe.accumulate, team, log, step)
        label_B, seed = images.label_B[indices], step_seed(recipe.seed, step, 3)  # the same in every process
        classes = draw_classes(len(images.class_names), label_B, recipe.max_classes, seed, correct=recipe.weigh_sample)
        place = {index: i for i, index in enumerate(indices)}
        place_B = torch.tensor([place[index] for index in batch.index_B.tolist()])
        texts = None
        if captions:
            seed = step_seed(recipe.seed, step, 7000)
            texts = captions_of(images, batch.index_B, recipe.templates, seed, place_B, len(indices))
        rows = tuple(tuple(map(len, part)) for part in parts)
        kind = (texts, classes, place_B, len(indices), sum(map(sum, rows)), rows, team.rank)
        yield step, TrainBatch(batch.image_BCHW, batch.label_B, *kind)


@dataclass(frozen=True)
class Plan:
    """A run's batches, worked out one by one: as lists those of a large set would fill the memory before the first step."""

    images: ImageSet
    recipe: TrainRecipe
    first: int
    team: Team

    def whole(self) -> Iterator[list[int]]:
        """Indices of every step's batch, over all processes."""
        n, r = len(self.images), self.recipe
        return batches(n, r.batch_size, r.seed, self.first, r.steps, self.images.shard_B)

    def __iter__(self) -> Iterator[list[int]]:
        """This process's share of each, in the order of its parts: what a loader reads."""
        return (_own(cut(batch, self.recipe.accumulate, self.team), self.team) for batch in self.whole())


def _own(parts: list[list[list[int]]], team: Team) -> list[int]:
    return [index for part in parts for index in part[team.rank]]


def _read(
    loader: Iterator[Any], images: ImageSet, indices: list[int], count: int, team: Team, log: TrainLog, step: int
) -> tuple[Any, list[list[list[int]]]]:
    """This process's share of what can be read of a batch, and everyone's in each part."""
    batch, error = None, None
    try:
        batch = next(loader)
    except Exception as problem:
        error = problem
    if not team.check(error, len(batch.bad) if batch is not None else 0):
        return batch, cut(indices, count, team)
    assert batch is not None
    told = (
        team.everyone((batch.index_B.tolist(), batch.bad)) if team.group is not None else [(batch.index_B.tolist(), batch.bad)]
    )
    log.bad([image for _, bad in told for image in bad])
    good = {index for readable, _ in told for index in readable}
    if team.group is None:
        good |= set(indices) - set(
            _own(cut(indices, count, team), team)
        )  # a plan looked at alone knows nothing of the other slices
    kept = [index for index in indices if index in good]
    if len(kept) < team.size:
        known = "not one" if not kept else f"only {len(kept)}"
        needed = f", and {team.size} processes need one each" if kept else ""
        raise TrainingError(f"Step {step}: {known} of the batch's {len(indices)} pictures can be read{needed}.")
    parts = cut(kept, count, team)
    if _own(parts, team) != batch.index_B.tolist():
        batch = images.collate(images.__getitems__(_own(parts, team)))
    return batch, parts


def captions_of(
    images: ImageSet,
    index_B: Tensor,
    templates: Sequence[str],
    seed: int,
    place_B: Tensor | None = None,
    places: int | None = None,
) -> list[str]:
    """A text for each image: the data set's caption or, where that is missing or empty, its class name in a prompt.

    Args:
        index_B: which images of the set.
        templates: prompts with `{c}`; `seed` picks one for each image.
        place_B: where the images are in a batch of `places`; None: they are the batch.
    """
    n = len(index_B) if places is None else places
    pick_B = torch.randint(len(templates), (n,), generator=torch.Generator().manual_seed(seed))
    pick_B = pick_B if place_B is None else pick_B[place_B]
    found = []
    for index, pick in zip(index_B.tolist(), pick_B.tolist(), strict=True):
        own = images.caption_B[index] if images.caption_B else None
        name = images.class_names[int(images.label_B[index])]
        found.append(own.strip() if own and own.strip() else templates[pick].replace("{c}", name))
    return found
