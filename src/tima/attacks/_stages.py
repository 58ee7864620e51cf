"""What a protocol's attack consists of: attacks with their parameters, each on what the ones before left standing."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

AttackFn = Callable[..., Tensor]

# The order of truth needs these as the evaluation sets them; a targeted attack has no robust accuracy.
SET_BY_EVALUATION = ("norm", "start_BCHW", "keep_best", "stop_when_broken", "generator", "batch_size", "targeted")


@dataclass(frozen=True)
class Stage:
    """One attack of a protocol with its parameters. Stages run in order."""

    name: str
    attack: AttackFn
    params: dict[str, Any]


def free_parameters(attack: AttackFn) -> list[str]:
    """Keywords of an attack that a protocol may set."""
    keywords = inspect.signature(attack).parameters.values()
    return [k.name for k in keywords if k.kind is k.KEYWORD_ONLY and k.name not in SET_BY_EVALUATION]
