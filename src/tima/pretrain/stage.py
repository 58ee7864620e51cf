"""One stage of the pre-training: AdamW, alone or beside Muon, warm-up, cosine, checkpoints, a running mean of weights."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from tima._files import atomic_path
from tima._precision import has_bf16
from tima.averaging import Averages
from tima.errors import TrainingError
from tima.models.hugging_face import HuggingFaceEncoder
from tima.pretrain.recipe import Stage

LossFn = Callable[[int, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
console = Console()


def stage_step(out: Path, name: str) -> int:
    """How many steps of a stage are done."""
    file = out / f"{name}.pt"
    return int(torch.load(file, weights_only=True)["step"]) if file.is_file() else 0


def run_stage(
    name: str,
    stage: Stage,
    params: dict[str, nn.Parameter],
    student: HuggingFaceEncoder,
    loss_fn: LossFn,
    out: Path,
    *,
    seed: int,
    save_every: int,
    score: Callable[[str], float] | None = None,
    val: Sequence[str] = (),
) -> None:
    """Run or resume. Leaves the running mean in `params` where the stage has one (`stage.ema`), else the last weights.

    Args:
        loss_fn: `(step, generator) -> loss, terms`; all its random numbers come from `generator`, which `step` keys.
        score: accuracy in percent on one of `val`; asked five checkpoints apart, of the weights that would be kept.

    Raises:
        TrainingError: the loss or the gradient became NaN or infinite.
    """
    file = out / f"{name}.pt"
    for other in student.backbone.parameters():
        other.requires_grad_(False)
    for p in params.values():
        p.requires_grad_(True)
    optimizers = make_optimizers(stage, params)
    step, state = 0, {}
    if file.is_file():
        state = torch.load(file, weights_only=True)
        student.backbone.load_state_dict(state["model"], strict=False)
        step = state["step"]
        for optimizer, kept in zip(optimizers, state.get("optimizers", []), strict=False):
            optimizer.load_state_dict(kept)
    averages = Averages(params, stage.ema, mix=1.0)
    if "averages" in state:
        averages.load_state(state["averages"])
    log = (out / "metrics.jsonl").open("a", encoding="utf-8")
    began, first = time.time(), step
    while step < stage.steps:
        warm = min(1.0, (step + 1) / max(1, stage.warmup_steps))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = stage.lr * warm * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        loss, terms = loss_fn(step, torch.Generator().manual_seed((seed + 1) * 1_000_003 + step))
        for p in params.values():
            p.grad = None
        loss.backward()
        norm = nn.utils.clip_grad_norm_(list(params.values()), 1.0)
        if not bool(torch.isfinite(loss.detach()) & torch.isfinite(norm)):  # before an update and a checkpoint take it in
            values = {"loss": loss, **terms, "gradient norm": norm}
            named = ", ".join(f"{k} = {float(v.detach()):.3g}" for k, v in values.items())
            kept = f"The last good checkpoint is {file}" if file.is_file() else "No checkpoint had been written yet"
            log.close()
            raise TrainingError(
                f"Stage {name}, step {step}: {named}. Nothing was updated with it. {kept}. Start anew with a smaller lr or a "
                "longer warm-up."
            )
        for optimizer in optimizers:
            optimizer.step()
        if "logit_scale" in params:
            params["logit_scale"].data.clamp_(max=math.log(100))
        averages.update(step)
        step += 1
        if step % save_every == 0 or step == stage.steps:
            record = {
                "stage": name,
                "step": step,
                "loss": float(loss.detach()),
                **{term: float(value.detach()) for term, value in terms.items()},
                "items_per_s": round((step - first) * stage.batch_size / (time.time() - began), 1),
            }
            if score is not None and (step % (5 * save_every) == 0 or step == stage.steps):
                with averages.applied():
                    record |= {d: score(d) for d in val}
            log.write(json.dumps(record) + "\n")
            log.flush()
            console.print(record)
            if step < stage.steps:
                state = {"model": _weights(student), "step": step, "averages": averages.state()}
                state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
            else:
                with averages.applied():
                    state = {"model": _weights(student), "step": step}
                student.backbone.load_state_dict(state["model"], strict=False)
            with atomic_path(file) as part:
                torch.save(state, part)
    log.close()


def make_optimizers(stage: Stage, params: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """AdamW, and for `muon` beside it Muon for the layers' matrices (Jordan 2024), scaled to AdamW's step (arXiv 2502.16982).

    Raises:
        TrainingError: this torch has no Muon.
    """
    inside = {name for name, p in params.items() if p.ndim == 2 and ".layers." in name} if stage.optimizer == "muon" else set()
    decay = [p for name, p in params.items() if p.ndim > 1 and name not in inside]
    plain = [p for p in params.values() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98), eps=1e-6)]
    if inside:
        muon = getattr(torch.optim, "Muon", None)
        if muon is None:
            raise TrainingError(f"optimizer: muon needs torch 2.9 or newer, this is {torch.__version__}. Take adamw.")
        matrices = [params[name] for name in sorted(inside)]
        if not has_bf16(matrices[0].device):  # torch's is bf16 inside, whatever the precision of the run
            console.print(
                "[yellow]optimizer: muon computes in bf16, which this device has no instructions for: a step can take many "
                "times as long as with adamw. Take adamw as this stage's optimizer in the recipe, or another machine.[/yellow]"
            )
        optimizers.append(muon(matrices, lr=stage.lr, weight_decay=stage.weight_decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def _weights(student: HuggingFaceEncoder) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in student.backbone.named_parameters()}
