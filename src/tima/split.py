"""Training, held-out images, held-out classes: what a run may learn from and what it may be chosen by.

Checkpoints and hyper-parameters are chosen on these two validation sets only (protocol.md): `seen` holds new images of
the training classes, `unseen` holds classes that the run never trained on, the stand-in for zero-shot transfer.
"""

from dataclasses import dataclass

import torch

from tima.config import TrainRecipe
from tima.data import ImageSet, find_data
from tima.errors import DataError


@dataclass
class Split:
    """The three parts. `seen` and `train` share their class list; `unseen` has its own, or is None without held-out classes."""

    train: ImageSet
    seen: ImageSet
    unseen: ImageSet | None


def split_data(recipe: TrainRecipe, image_size: int, images: ImageSet | None = None) -> Split:
    """Open `recipe.data` and split it by `recipe.seed`-independent rules, so that every seed trains on the same images.

    `images` stand for `recipe.data` where they are in memory already.
    """
    train = find_data(recipe.data, "train", image_size) if images is None else images.at_size(image_size)
    try:
        val = find_data(recipe.data, "val", image_size) if images is None else None
    except DataError:
        val = None
    if val is None or val.class_names != train.class_names:
        val = None
    C = len(train.class_names)
    shuffled = torch.randperm(C, generator=torch.Generator().manual_seed(1)).tolist()
    held = max(2, round(recipe.held_out_classes * C)) if recipe.held_out_classes > 0 and C >= 4 else 0
    if C - held < 2:
        raise DataError(f"'{train.name}' has {C} classes; training needs at least two besides the {held} held out.")
    unseen_classes, seen_classes = sorted(shuffled[:held]), sorted(shuffled[held:])
    if val is None:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        # the share, but at least one picture of a class that is trained on: of few pictures the share may hold none
        trained = torch.isin(train.label_B[order], torch.tensor(seen_classes)).nonzero().flatten()
        if len(trained) < 2:
            raise DataError(
                f"'{train.name}' has {len(trained)} pictures of the {C - held} classes that are trained on ({held} are held "
                "out to choose the best weights by); training needs at least two, one of them to validate with. Give more "
                "pictures, or held_out_classes=0."
            )
        cut = max(int(trained[0]) + 1, round(recipe.val_images * len(train)))
        train, val = train.subset(order[cut:].sort().values), train.subset(order[:cut].sort().values)
    unseen = None
    if held:
        # nothing of a held-out class was trained on, so its training images serve as validation too
        both = [s.keep_classes(unseen_classes) for s in (val, train) if _has(s, unseen_classes)]
        if not both:
            names = ", ".join(train.class_names[c] for c in unseen_classes)
            raise DataError(
                f"'{train.name}' has no pictures of the held-out classes ({names}). Leave empty classes out of the set."
            )
        unseen = (both[0] if len(both) == 1 else _join(both[0], both[1])).sample(recipe.val_samples, seed=2)
    seen = val.keep_classes(seen_classes).sample(recipe.val_samples, seed=2)
    return Split(train.keep_classes(seen_classes), seen, unseen)


def _has(images: ImageSet, classes: list[int]) -> bool:
    return bool(torch.isin(images.label_B, torch.tensor(classes)).any())


def _join(first: ImageSet, second: ImageSet) -> ImageSet:
    cut = len(first)
    return ImageSet(
        first.name,
        first.class_names,
        torch.cat([first.label_B, second.label_B]),
        lambda i: first.read(i) if i < cut else second.read(i - cut),
        lambda i: first.where(i) if i < cut else second.where(i - cut),
        first.image_size,
        first.templates,
    )
