"""Weights must be numbers. One NaN makes every answer NaN, or, where it meets an argmax, a confident class 0."""

from typing import TypeVar

import torch
from torch import nn

from tima.errors import ModelError

Model = TypeVar("Model", bound=nn.Module)


def check_finite(model: Model, source: str) -> Model:
    """The model itself.

    Raises:
        ModelError: NaN or infinite weights; the message names the first such tensor and says how many there are.
    """
    # what a file holds, and not every buffer: open_clip's causal mask is minus infinity by intent
    bad = [
        (name, tensor)
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
    if not bad:
        return model
    name, tensor = bad[0]
    count = int((~torch.isfinite(tensor)).sum())
    others = f", and {len(bad) - 1} more tensors are like it" if len(bad) > 1 else ""
    raise ModelError(
        f"'{source}': {name.removeprefix('backbone.')} holds {count} NaN or infinite of {tensor.numel()} values{others}. The "
        "training that wrote it diverged, or the file is damaged. Take an earlier checkpoint, or copy the file again."
    )
