"""One optimiser step: gradients of a batch in parts, clipping, update. Over several processes as over one."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tima.checkpoint import Progress
from tima.config import TrainRecipe
from tima.distributed import Team
from tima.distributed_sharding import clip_gradients, is_sharded, reduce_replicated
from tima.errors import NotFiniteError, TrainingError
from tima.modifiers import Modifiers
from tima.objective import Objective, Outcome
from tima.schedule import attack_step_size
from tima.train_batch import TrainBatch


def update(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    accelerator: Any,
    recipe: TrainRecipe,
    step: int,
    batch: TrainBatch,
    eps: float,
    params: dict[str, nn.Parameter],
    modifiers: Modifiers,
    state: Progress,
    out: Path,
    team: Team | None = None,
) -> Outcome:
    """Gradients of a batch and one optimiser step. What is returned is this process's part of the sums.

    Raises:
        TrainingError: in every process, where one of them found NaN or infinity or could not go on; nothing is updated then.
    """
    team = team or Team()
    parts, device = batch.parts(recipe.accumulate), accelerator.device

    def gradients(seen: list[Tensor | None]) -> tuple[Outcome, list[Tensor | None]]:
        """Forward and backward in `accumulate` parts; on adversarial images `seen` before, where there are some."""
        optimizer.zero_grad(set_to_none=True)
        total, made = Outcome({}, 0, 0, adversarial=False), []
        for part, (piece, adv_BCHW) in enumerate(zip(parts, seen, strict=True)):
            with _reduced(objective, last=part == len(parts) - 1), team.part(list(piece.rows[0])):
                outcome, loss = _forward(objective, recipe, step, piece, eps, adv_BCHW, team, device, state, out)
                share = len(piece.label_B) / batch.total
                # a process's loss is its share of the batch's; what reduces gradients takes their mean, and wanted is the sum
                accelerator.backward(loss * share * team.size)
            for name, term in outcome.terms.items():
                total.terms[name] = total.terms.get(name, torch.zeros(())) + term.detach().float().cpu() * share
            total.right += outcome.right
            total.n += outcome.n
            total.adversarial = outcome.adversarial
            made.append(outcome.adv_BCHW if outcome.adversarial and modifiers.looks_again else None)
        reduce_replicated(objective, params, team)
        return total, made

    found, seen = gradients([None] * len(parts))
    if (worst := modifiers.worst_weights(params, step)) is not None:
        with worst:
            gradients(seen)
    norm = clip_gradients(params, recipe.clip_grad)
    if not torch.isfinite(norm):
        raise not_finite(step, {"gradient norm": float(norm)}, state, out)
    optimizer.step()
    # fused optimisers write past autograd's count of writes, by which kept copies of the weights know that they are old
    for p in params.values():  # one by one: torch 2.4 takes no list
        torch.autograd.graph.increment_version(p)
    return found


def _forward(
    objective: Objective,
    recipe: TrainRecipe,
    step: int,
    piece: TrainBatch,
    eps: float,
    adv_BCHW: Tensor | None,
    team: Team,
    device: torch.device,
    state: Progress,
    out: Path,
) -> tuple[Outcome, Tensor]:
    """The outcome of one part, and its loss, which is finite in all processes.

    Processes that exchange something inside the forward pass (spread weights, rows of others) wait there for one that has met
    an error, and cannot be told: it ends at once, and its launcher ends them.
    """
    error: Exception | None = None
    outcome, loss = Outcome({}, 0, 0, adversarial=False), torch.zeros(())
    try:
        pixel_BCHW, label_B = piece.pixels(recipe, step).to(device), piece.label_B.to(device)
        generators, size = piece.generators(recipe, step, device), attack_step_size(recipe, eps)
        with precision(recipe, device), located("inner attack", step, state, out):
            outcome = objective(pixel_BCHW, label_B, eps, size, generators, piece.captions, adv_BCHW, piece.classes)
        loss = torch.stack([term.float() for term in outcome.terms.values()]).sum()
    except Exception as problem:
        if team.busy or any(is_sharded(p) for p in objective.parameters()):
            raise
        error = problem
    if error is None and not torch.isfinite(loss):
        culprits = {name: float(t.detach()) for name, t in outcome.terms.items() if not torch.isfinite(t)}
        error = not_finite(step, culprits, state, out)
    team.check(error)
    return outcome, loss


@contextmanager
def _reduced(objective: nn.Module, last: bool) -> Iterator[None]:
    """Processes exchange gradients after the last part only. (Sharded weights exchange them after each: keeping whole gradients
    until the last would take the memory that sharding is there to save.)"""
    if last or not isinstance(objective, nn.parallel.DistributedDataParallel):
        yield
    else:
        with objective.no_sync():
            yield


def precision(recipe: TrainRecipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16")


@contextmanager
def located(what: str, step: int, state: Progress, out: Path) -> Iterator[None]:
    """An attack that meets NaN or infinity knows neither the step nor what to go back to: here both are added."""
    try:
        yield
    except NotFiniteError as error:
        raise not_finite(step, {what: math.nan}, state, out) from error


def not_finite(step: int, culprits: dict[str, float], state: Progress, out: Path) -> TrainingError:
    named = ", ".join(f"{name} = {value}" for name, value in culprits.items()) or "their sum"
    checkpoint = out / "checkpoint"
    kept = f"The last good checkpoint is {checkpoint}" if checkpoint.is_dir() else "No checkpoint had been written yet"
    best = f", the best model so far {out / 'model'} (step {state.best_step})" if state.best_step else ""
    return TrainingError(
        f"Step {step}: {named}. Nothing was updated with it. {kept}{best}. "
        "A smaller lr, a longer warmup or eps_warmup, or precision=fp32 usually helps."
    )
