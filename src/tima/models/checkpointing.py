"""Gradient checkpointing for the layers of any library's towers (Chen et al. 2016, arXiv 1604.06174).

The libraries switch theirs on in training mode only, and fine-tuning here runs in eval mode, without dropout. So every layer's
`forward` is wrapped. The passes of `lean.py` do the same for themselves.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_layers(backbone: nn.Module, on: bool) -> int:
    """Keep only the input of every layer for the backward pass, or (off) everything again. Returns how many layers there are.

    Layers are the members of lists of alike modules: a tower's transformer layers or residual blocks. Where such lists are
    inside each other (stages of blocks) the inner ones count.
    """
    found = [layer for stack in backbone.modules() if alike(stack) for layer in stack.children()]
    inner = {id(layer) for layer in found}
    layers = [layer for layer in found if not any(id(m) in inner for m in layer.modules() if m is not layer)]
    for layer in layers:
        if "forward" in layer.__dict__:
            del layer.__dict__["forward"]
        if on:
            layer.__dict__["forward"] = partial(_forward, layer)  # which a copy of the model copies, too
    return len(layers)


def alike(stack: nn.Module) -> bool:
    """Whether it is a list of a tower's layers: two or more of one class, each with layers inside.

    timm's towers and ResNets have theirs in an `nn.Sequential`.
    """
    if not isinstance(stack, nn.ModuleList | nn.Sequential) or len(stack) < 2:
        return False
    return len({type(layer) for layer in stack}) == 1 and any(True for _ in stack[0].children())


def _forward(layer: nn.Module, *args: Any, **words: Any) -> Any:
    original = type(layer).forward
    if not torch.is_grad_enabled():
        return original(layer, *args, **words)
    return checkpoint(original, layer, *args, use_reentrant=False, preserve_rng_state=False, **words)
