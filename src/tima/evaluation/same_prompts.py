"""Classes that are asked with the same prompts (ImageNet's two cranes): refused, merged or kept, as the protocol says.

Two names that differ can be one text to a model: its tokenizer lower-cases, tidies up and cuts what is too long. So tokens are
compared, not names. Shapes: `C` classes of the set, `M` classes that the model can tell apart, `N` images, `P` prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tima.data.image_set import ImageSet
from tima.errors import DataError
from tima.models import DualEncoder
from tima.models.zero_shot import prompts
from tima.protocols import Protocol


def same_prompts(model: DualEncoder, class_names: Sequence[str], templates: Sequence[str]) -> list[list[int]]:
    """Groups of two classes or more whose prompts are the same tokens under every template, in the classes' order."""
    groups = _split(model, list(range(len(class_names))), class_names, templates[0])
    for template in templates[1:]:  # only of classes that are still alike: a set of 1000 classes has few of them
        groups = [part for group in groups for part in _split(model, group, class_names, template)]
    return groups


def _split(model: DualEncoder, group: list[int], class_names: Sequence[str], template: str) -> list[list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    texts = prompts([class_names[number] for number in group], [template])
    tokens = model.tokenize(texts)  # in one call: how far a text is padded depends on those beside it
    token_CL = torch.cat([value.reshape(len(texts), -1) for value in tokens.values()], dim=1)
    for number, row in zip(group, token_CL.tolist(), strict=True):
        found.setdefault(tuple(row), []).append(number)
    return [part for part in found.values() if len(part) > 1]


def refused(groups: Sequence[Sequence[int]], class_names: Sequence[str], where: str) -> DataError:
    """The error that lists classes asked with the same prompts, and says what can be done."""
    clashes = "; ".join(", ".join(group) for group in named(groups, class_names))
    return DataError(
        f"{where}: class names given twice, or one text to the model: {clashes}. Classes with the same prompts cannot be "
        "told apart: rename all but one of each, or take a protocol whose duplicate_prompts is 'merge' (they count as one "
        "class) or 'keep' (they stay, and rounding says which one wins)."
    )


def named(groups: Sequence[Sequence[int]], class_names: Sequence[str]) -> list[list[str]]:
    """The groups as records and messages say them: `crane (class 134)`."""
    return [[f"{class_names[number]} (class {number})" for number in group] for group in groups]


def merging(groups: Sequence[Sequence[int]], classes: int) -> tuple[Tensor, list[int]]:
    """`(class_C, first)`: the merged class of each class, and the first class of each merged one."""
    leader = {number: group[0] for group in groups for number in group}
    first = [number for number in range(classes) if leader.get(number, number) == number]
    place = {number: m for m, number in enumerate(first)}
    return torch.tensor([place[leader.get(number, number)] for number in range(classes)]), first


@dataclass(frozen=True)
class Asked:
    """The classes as the model is asked about them.

    Attributes:
        data: the set, with merged classes where the protocol merges.
        texts: class names, each text once.
        class_C: which of these texts each class has; None: one each, in order.
        duplicates: the groups of classes with the same prompts, for the record.
    """

    data: ImageSet
    texts: list[str]
    class_C: Tensor | None
    duplicates: list[list[str]]


def ask(model: DualEncoder, data: ImageSet, protocol: Protocol, templates: Sequence[str]) -> Asked:
    """What becomes of classes with the same prompts under the protocol.

    Raises:
        DataError: there are some, and the protocol wants none; or no two classes have different prompts.
    """
    names = list(data.class_names)
    groups = same_prompts(model, names, templates)
    if not groups:
        return Asked(data, names, None, [])
    if protocol.duplicate_prompts == "error":
        raise refused(groups, names, data.name)
    class_C, first = merging(groups, len(names))
    if len(first) < 2:
        raise DataError(
            f"{data.name}: all {len(names)} classes are one text to the model ({', '.join(named(groups, names)[0])}), so there "
            "is nothing to tell apart. Rename them."
        )
    texts = [names[number] for number in first]
    if protocol.duplicate_prompts == "keep":
        return Asked(data, texts, class_C, named(groups, names))
    merged = replace(data, class_names=texts, label_B=class_C[data.label_B], same_names=False)
    return Asked(merged, texts, None, named(groups, names))
