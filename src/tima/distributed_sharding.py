"""Weights, gradients and optimiser state spread over the processes: PyTorch's FSDP2 (`fully_shard`).

    torchrun --nproc_per_node=8 -m tima train --shard --method tima --model ViT-L-14 --out runs/x
    accelerate launch --config_file examples/launch/8gpu_fsdp.yaml -m tima train --out runs/x     # the same by its own switch

`fully_shard` is called here and not by `Accelerator.prepare`, for two reasons. Training enters the model by `encode_image` and
`encode_text` (the attack, class texts, validation), and weights are only put together around methods that FSDP has been told
of; Accelerate tells it of `forward` alone. And Accelerate switches FSDP on for accelerators only, so that nothing of this could
be tested on a CPU. Its configuration files and its launcher do start it.

What is small and used everywhere stays whole in every process: scalars (logit scale), the visual prompt, a method's own head.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tima.config import TrainRecipe
from tima.distributed import Team
from tima.errors import RecipeError
from tima.models import DualEncoder

Params = Mapping[str, nn.Parameter]
ENTRANCES = ("encode_image", "encode_patches", "encode_text")


def asked_for(shard: bool | None) -> bool:
    """What the caller says; else what `accelerate launch` says with an FSDP configuration.

    Raises:
        RecipeError: version 1 of FSDP.
    """
    if shard is not None or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() not in ("true", "1"):
        return bool(shard)
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise RecipeError("FSDP's first version is not used here. Write `fsdp_version: 2` in the accelerate configuration.")
    return True


def check(recipe: TrainRecipe) -> None:
    """What does not go together with spread weights.

    Raises:
        RecipeError: low-rank adapters, GradAlign, or a torch without what is used of FSDP2.
    """
    import torch.distributed.fsdp as fsdp

    if not hasattr(getattr(fsdp, "FSDPModule", None), "set_force_sum_reduction_for_comms"):
        raise RecipeError(f"--shard uses parts of FSDP2 that torch {torch.__version__} does not have. Install a newer torch.")
    if recipe.lora is not None:
        raise RecipeError(
            "lora trains little and keeps the towers frozen: there is nothing to gain from --shard. Leave one out."
        )
    if recipe.attack.align > 0:
        raise RecipeError("attack.align differentiates gradients once more, which FSDP cannot follow. Leave out --shard.")


def shard_weights(student: DualEncoder, device: torch.device) -> None:
    """Spread the weights, layer by layer. Parameters are new objects afterwards, under their old names.

    The layers are the members of the towers' module lists. Weights that belong to none of them are put together as one group.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    student.use_lean(None)  # it reads the weights past the layers' own forward
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    ignored = {p for name, p in student.named_parameters() if p.ndim == 0 or p.numel() < 2 or name.startswith("prompt.")}
    cut: list[Any] = layers(student)
    for layer in cut:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # also the root gives its weights back after each pass: kept ones would be stale once an average is put in their place
    fully_shard(student, mesh=mesh, reshard_after_forward=True, ignored_params=ignored)  # type: ignore[call-overload]
    for part in (*cut, student):
        part.set_force_sum_reduction_for_comms(device.type == "cpu")  # gloo sums, it takes no mean
    for name in ENTRANCES:
        register_fsdp_forward_method(student, name)


def layers(student: nn.Module) -> list[nn.Module]:
    """The towers' transformer layers: members of module lists that hold no module list with parameters themselves."""
    lists = [m for m in student.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 1]
    found = [child for members in lists for child in members if sum(p.numel() for p in child.parameters()) > 0]
    inner = {id(m) for child in found for m in child.modules() if m is not child}
    return [child for child in found if id(child) not in inner]


def renewed(student: DualEncoder, params: Params) -> dict[str, nn.Parameter]:
    """The same names with the parameters that the student has now."""
    now = dict(student.backbone.named_parameters())
    return {name: now.get(name, p) for name, p in params.items()}


def is_sharded(value: Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    return hasattr(value, "full_tensor")  # what a DTensor alone has; the class itself moved between torch 2.4 and 2.5


def whole(value: Tensor) -> Tensor:
    """The full tensor, from whichever processes hold it; all of them must ask."""
    return value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]


def reduce_replicated(objective: nn.Module, params: Params, team: Team) -> None:
    """Gradients of what stayed whole, to their mean over processes. DDP has done that itself."""
    if team.group is None or isinstance(objective, nn.parallel.DistributedDataParallel):
        return
    for p in params.values():
        if not is_sharded(p) and p.grad is not None:
            dist.all_reduce(p.grad)
            p.grad.div_(team.size)


def length(value: Tensor) -> float:
    """Euclidean length of a tensor, spread or not; all processes must ask."""
    return float(whole(value.norm()))


def clip_gradients(params: Params, largest: float) -> Tensor:
    """Scale all gradients so that their common norm is at most `largest` (0: any), and return the norm it was."""
    if not any(is_sharded(p) for p in params.values()):
        return nn.utils.clip_grad_norm_(params.values(), largest or math.inf)
    gradients = [p.grad for p in params.values() if p.grad is not None]
    spread = [g.to_local() for g in gradients if is_sharded(g)]  # type: ignore[attr-defined]
    squares = torch.stack([part.float().square().sum() for part in spread]).sum()
    dist.all_reduce(squares)
    squares = squares + sum(g.float().square().sum() for g in gradients if not is_sharded(g))
    norm = squares.sqrt()
    if largest and bool(norm > largest):
        for g in gradients:
            g.mul_(largest / (norm + 1e-6))
    return norm


def whole_model(student: DualEncoder, source: str, main: bool) -> DualEncoder | None:
    """A copy with full weights on the main process's CPU, ready to be saved; None elsewhere. All processes must ask."""
    from tima.models import load_model

    copy = load_model(source) if main else None
    targets: dict[str, Any] = {} if copy is None else dict(copy.backbone.named_parameters())
    with torch.no_grad():
        for name, p in student.backbone.named_parameters():
            full = whole(p.detach())  # one at a time: no process ever holds all of them on its device
            if copy is not None:
                targets[name].copy_(full)
    if copy is not None:
        copy.prompt = student.prompt
    return copy
