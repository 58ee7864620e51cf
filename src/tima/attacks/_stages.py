"""What a protocol's attack consists of: attacks with their parameters, each on what the ones before left standing."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tima.errors import RecipeError, TimaError

AttackFn = Callable[..., Tensor]

# The order of truth needs these as the evaluation sets them; a targeted attack has no robust accuracy.
SET_BY_EVALUATION = ("norm", "start_BCHW", "keep_best", "stop_when_broken", "generator", "batch_size", "targeted", "ahead")


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


def check_stages(stages: Sequence[Stage], norm: str) -> None:
    """Ask every stage of ours for the adversarial images of no image: what it refuses, it refuses before the clean pass.

    Raises:
        RecipeError: parameters that a stage does not take, and which stage that is.
    """
    image_BCHW, label_B = torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long)
    for stage in stages:
        if not stage.attack.__module__.startswith("tima."):  # somebody else's may be unable to do with no image
            continue
        try:
            stage.attack(lambda x: x.flatten(1)[:, :4], image_BCHW, label_B, 0.01, norm=norm, **stage.params)
        except TimaError as error:
            raise RecipeError(f"Attack '{stage.name}' under {norm}: {error}") from error
