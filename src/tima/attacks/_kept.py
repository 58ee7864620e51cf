"""A search kept between two steps, so that an attack of hours goes on after a kill and ends with the same bits.

What is kept: every tensor of the batch's rows, what was found so far, how many images or runs began, and where each image's
random numbers stand. Whoever calls an attack says where to keep it, as the attribute `keeper` of the model; without one nothing
is kept.
"""

from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Keeper(Protocol):
    """Where one search is kept."""

    def due(self) -> bool:
        """Whether to keep it again. Asked after every step."""

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Keep this, whole or not at all, in place of what was kept before."""

    def load(self) -> dict[str, Tensor] | None:
        """What was kept of this very search; None where it begins."""


def flat(rows: Any, prefix: str) -> dict[str, Tensor]:
    """Every tensor of a state by name, those of nested ones too."""
    found: dict[str, Tensor] = {}
    for name, value in _parts(rows):
        found |= {f"{prefix}.{name}": value} if isinstance(value, Tensor) else flat(value, f"{prefix}.{name}")
    return found


def filled(rows: T, tensors: dict[str, Tensor], prefix: str) -> T:
    """A state like `rows` with the tensors that `flat` gave, on the devices where `rows` has its own."""
    values: dict[str, Any] = {}
    for name, value in _parts(rows):
        place = f"{prefix}.{name}"
        values[name] = tensors[place].to(value.device) if isinstance(value, Tensor) else filled(value, tensors, place)
    return replace(rows, **values)  # type: ignore[type-var]


def _parts(rows: Any) -> list[tuple[str, Any]]:
    every = [(field.name, getattr(rows, field.name)) for field in fields(rows)]
    return [(name, value) for name, value in every if isinstance(value, Tensor) or is_dataclass(value)]
