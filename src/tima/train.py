"""The trainer: one loop for every method, on one CPU, one GPU or many.

    tima train --method tima --model nano --data pictures --eps 4/255 --out runs/x
    tima train --resume runs/x                      # goes on after a kill, to the same weights
    tima train --recipe runs/x --out runs/y lr=3e-4 # the same settings but one
    tima train --out runs/z lora.rank=8 awp.gamma=0.005 # modifiers, which combine with any method (modifiers/)

Each step: batch -> augment -> (class texts, inner attack, loss terms: objective.py) -> clip -> update; now and then
validate and write a checkpoint. Randomness is keyed by (seed, step), so a resumed run needs no generator state.
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tima._files import atomic_folder, restore_folder, write_json, write_text
from tima._trackers import PROJECT, check_trackers, tracker_config, tracker_folder, tracker_options
from tima.averaging import Averages
from tima.checkpoint import Progress, load_checkpoint, save_checkpoint
from tima.class_sample import draw_classes
from tima.config import TrainRecipe, dump, train_recipe
from tima.config import validate as validate_config
from tima.data import ImageSet
from tima.data.augment import augment
from tima.errors import RecipeError, TimaError, TrainingError
from tima.methods import find_method
from tima.models import DualEncoder, load_model
from tima.modifiers import Modifiers, build_modifiers
from tima.objective import Objective, Outcome
from tima.schedule import attack_step_size, batches, eps_at, lr_factor, step_seed
from tima.split import Split, split_data
from tima.train_batch import TrainBatch, captions_of
from tima.train_log import TrainLog
from tima.validate import Score, mean_score, validate


def train(recipe: TrainRecipe, out: str | Path, *, progress: bool = True, images: ImageSet | None = None) -> Path:
    """Train, or resume, and return the folder of the best model (Hugging Face format).

    A run that is complete is left as it is. Best means: highest mean of clean and robust accuracy over the two
    validation sets of `split.py`; no evaluation set has a say. `images` stand for `recipe.data` where they are in memory.

    Raises:
        TrainingError: the loss or gradient became NaN or infinite.
        TimaError: the folder holds another run, the disk is full, data or model cannot be used.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    out = Path(out)
    check_trackers(recipe.trackers)
    _claim(out, recipe)
    if (out / "summary.json").is_file():
        return out / "model"
    # autocast is the recipe's business (`_precision`): Accelerate's own setting is fixed for a whole Python process
    # some towers have weights that no embedding uses (DINOv2's mask token), and processes would wait for their gradients
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(log_with=recipe.trackers or None, project_dir=tracker_folder(out), kwargs_handlers=[unused])
    device = accelerator.device
    torch.manual_seed(recipe.seed)
    method, modifiers = _build_method(recipe), build_modifiers(recipe)
    student = load_model(recipe.model).to(device)
    teacher = load_model(recipe.model).to(device).requires_grad_(False) if method.needs_teacher else None
    if device.type == "cpu" and recipe.precision == "bf16":  # the fused kernel's bf16 backward is slow on CPU
        for model in (student, teacher):
            if model is not None:
                model.use_attention("eager")
                model.use_lean(torch.bfloat16)
    split = split_data(recipe, student.image_size, images)
    if 2 * recipe.steps * recipe.batch_size >= len(split.train):  # a short run sees few of the pictures, each once
        split.train.preload()
    for images in (split.seen, split.unseen):
        if images is not None and images.shard_B is not None:  # drawn from everywhere: else each validation reads all shards
            images.preload()
    student.requires_grad_(False)
    params = modifiers.attach(student, method.trainable(student))
    for p in params.values():
        p.requires_grad_(True)
    state = Progress(recipe_sha256=_fingerprint(recipe))
    # before the checkpoint is loaded: the frozen class texts are the original's, also when no teacher is kept
    objective = Objective(student, teacher, method, split.train.class_names, recipe.templates, recipe.attack).to(device)
    params |= {f"method.{name}": p for name, p in objective.own.items()}
    if not params:
        return _untrained(student, split, recipe, state, out, device, accelerator.is_main_process)
    optimizer = _build_optimizer(recipe, student, params, modifiers)
    averages = Averages(params, recipe.ema, recipe.mix, modifiers.adapters)
    for folder in ("checkpoint", "model"):
        restore_folder(out / folder)
    if (out / "checkpoint" / "state.pt").is_file():
        state = load_checkpoint(out / "checkpoint", params, optimizer, averages)
    if accelerator.num_processes > 1:
        objective, optimizer = accelerator.prepare(objective, optimizer)
    accelerator.init_trackers(PROJECT, config=tracker_config(recipe), init_kwargs=tracker_options(recipe.trackers, out))
    main = accelerator.is_main_process
    log = TrainLog(out, recipe, state.step, show=progress and main, write=main, tracker=accelerator.log)
    began = time.monotonic() - state.seconds

    with log:
        log.notes(split, params, device)
        if recipe.max_classes is not None and method.text_tower == "none":
            log.console.print(f"max_classes has no effect: '{recipe.method}' trains no text tower, its texts are encoded once.")
        for step, batch in _stream(split.train, recipe, method.needs_captions, state.step, accelerator, log):
            eps = eps_at(recipe, step)
            lr = recipe.lr * lr_factor(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            outcome = _update(objective, optimizer, accelerator, recipe, step, batch, eps, params, modifiers, state, out)
            averages.update(step)
            state.step = step + 1
            log.step(step, outcome, lr, eps)
            last = state.step == recipe.steps
            if state.step % recipe.val_every == 0 or last:
                with averages.applied(), modifiers.outgoing():
                    scores = _validate(student, split, recipe, device)
                    score = log.validation(state.step, scores)
                    if score > state.best_score and main:
                        state.best_score, state.best_step = score, state.step
                        state.val = {name: s.record() for name, s in scores.items()}
                        save_model(student, out / "model")
            if (state.step % recipe.save_every == 0 or last) and main:
                state.seconds = time.monotonic() - began
                save_checkpoint(out / "checkpoint", params, optimizer, state, averages)
        if main:
            write_json(out / "summary.json", _summary(recipe, state, split, quarantined=len(log.bad_seen)))
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:  # not `end_training`: it also ends the process group, which the caller may go on using
        tracker.finish()
    return out / "model"


def _untrained(
    student: DualEncoder, split: Split, recipe: TrainRecipe, state: Progress, out: Path, device: torch.device, main: bool
) -> Path:
    """A method that trains nothing: the model as it is, validated once."""
    scores = _validate(student, split, recipe, device)
    state.val = {name: score.record() for name, score in scores.items()}
    state.best_score = mean_score(scores)
    if main:
        save_model(student, out / "model")
        write_json(out / "summary.json", _summary(recipe, state, split, quarantined=0) | {"steps": 0, "images_seen": 0})
    return out / "model"


def _update(
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
) -> Outcome:
    """Gradients of a batch and one optimiser step."""

    def gradients(seen: list[Tensor | None]) -> tuple[Outcome, list[Tensor | None]]:
        """Forward and backward in `accumulate` parts; on adversarial images `seen` before, where there are some."""
        optimizer.zero_grad(set_to_none=True)
        total, made = Outcome({}, 0, 0, adversarial=False), []
        rank, device, n = accelerator.process_index, accelerator.device, len(batch.label_B)
        for part, (piece, adv_BCHW) in enumerate(zip(parts, seen, strict=True)):
            generator = torch.Generator(device).manual_seed(step_seed(recipe.seed, step, 10 + part + 1000 * rank))
            pixels, label_B = _augment(piece.image_BCHW, recipe, step, part, rank).to(device), piece.label_B.to(device)
            with _precision(recipe, device):
                size = attack_step_size(recipe, eps)
                outcome = objective(pixels, label_B, eps, size, generator, piece.captions, adv_BCHW, piece.classes)
            share = len(label_B) / n
            loss = torch.stack([term.float() for term in outcome.terms.values()]).sum() * share
            if not torch.isfinite(loss):
                culprits = {name: float(t.detach()) for name, t in outcome.terms.items() if not torch.isfinite(t)}
                raise _not_finite(step, culprits, state, out)
            accelerator.backward(loss)
            for name, term in outcome.terms.items():
                total.terms[name] = total.terms.get(name, torch.zeros(())) + term.detach().float().cpu() * share
            total.right += outcome.right
            total.n += outcome.n
            total.adversarial = outcome.adversarial
            made.append(outcome.adv_BCHW if outcome.adversarial else None)
        return total, made

    parts = batch.parts(recipe.accumulate)
    found, seen = gradients([None] * len(parts))
    if (worst := modifiers.worst_weights(params, step)) is not None:
        with worst:
            gradients(seen)
    norm = nn.utils.clip_grad_norm_(params.values(), recipe.clip_grad or float("inf"))
    if not torch.isfinite(norm):
        raise _not_finite(step, {"gradient norm": float(norm)}, state, out)
    optimizer.step()
    return found


def _stream(
    images: ImageSet, recipe: TrainRecipe, captions: bool, first: int, accelerator: Any, log: TrainLog
) -> Iterator[tuple[int, TrainBatch]]:
    """Every step's batch; each process takes its own slice of the same global batch."""
    rank, world = accelerator.process_index, accelerator.num_processes
    whole = list(batches(len(images), recipe.batch_size, recipe.seed, first, recipe.steps, images.shard_B))
    plan = [batch[rank::world] for batch in whole]
    loader = torch.utils.data.DataLoader(images, batch_sampler=plan, collate_fn=images.collate, num_workers=recipe.workers)
    for step, batch in enumerate(loader, start=first):
        log.bad(batch.bad)
        if len(batch.label_B) == 0:
            raise TrainingError(f"Step {step}: not one of the batch's {len(plan[step - first])} pictures can be read.")
        seed = step_seed(recipe.seed, step, 7000 + 1000 * rank)
        texts = captions_of(images, batch.index_B, recipe.templates, seed) if captions else None
        present_B, seed = images.label_B[whole[step - first]], step_seed(recipe.seed, step, 3)  # the same in every process
        classes = draw_classes(len(images.class_names), present_B, recipe.max_classes, seed, correct=recipe.weigh_sample)
        yield step, TrainBatch(batch.image_BCHW, batch.label_B, texts, classes)


def _augment(image_BCHW: Tensor, recipe: TrainRecipe, step: int, part: int, rank: int) -> Tensor:
    pixels = image_BCHW.float() / 255
    generator = torch.Generator().manual_seed(step_seed(recipe.seed, step, 5000 + part + 1000 * rank))
    if recipe.augment == "flip":
        flip_B = torch.rand(len(pixels), generator=generator) < 0.5
        return torch.where(flip_B[:, None, None, None], pixels.flip(-1), pixels)
    return augment(pixels, generator, grey=0.0, jitter=0.0) if recipe.augment == "crop" else pixels


def _validate(student: DualEncoder, split: Split, recipe: TrainRecipe, device: torch.device) -> dict[str, Score]:
    sets = {"seen": split.seen} | ({"unseen": split.unseen} if split.unseen is not None else {})
    with _precision(recipe, device):
        return {
            name: validate(
                student, images, recipe.eps, recipe.val_attack_steps, seed=0, batch_size=recipe.batch_size, device=device
            )
            for name, images in sets.items()
        }


def _precision(recipe: TrainRecipe, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16")


def save_model(student: DualEncoder, folder: Path) -> None:
    with atomic_folder(folder) as part:
        student.save_pretrained(part)


def _build_method(recipe: TrainRecipe) -> Any:
    method_class = find_method(recipe.method)
    return method_class(validate_config(method_class.Config, recipe.method_config, f"method_config of '{recipe.method}'"))


def _build_optimizer(
    recipe: TrainRecipe, student: DualEncoder, params: dict[str, nn.Parameter], modifiers: Modifiers
) -> torch.optim.Optimizer:
    """Two groups for each learning rate: matrices with weight decay, vectors (biases, norms) without."""
    text = set(student.text_parameters("full"))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in params.items():
        scale = modifiers.lr_scale.get(name, recipe.text_lr_scale if name in text else 1.0)
        groups.setdefault((scale, recipe.weight_decay if p.ndim > 1 else 0.0), []).append(p)
    listed = [{"params": ps, "lr_scale": scale, "weight_decay": decay} for (scale, decay), ps in groups.items()]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(listed, lr=recipe.lr, momentum=0.9)
    return torch.optim.AdamW(listed, lr=recipe.lr, betas=(0.9, 0.98), eps=1e-8)


def _not_finite(step: int, culprits: dict[str, float], state: Progress, out: Path) -> TrainingError:
    named = ", ".join(f"{name} = {value}" for name, value in culprits.items()) or "their sum"
    checkpoint = out / "checkpoint"
    kept = f"The last good checkpoint is {checkpoint}" if checkpoint.is_dir() else "No checkpoint had been written yet"
    best = f", the best model so far {out / 'model'} (step {state.best_step})" if state.best_step else ""
    return TrainingError(
        f"Step {step}: {named}. Nothing was updated with it. {kept}{best}. "
        "A smaller lr, a longer warmup or eps_warmup, or precision=fp32 usually helps."
    )


def _fingerprint(recipe: TrainRecipe) -> str:
    return hashlib.sha256(dump(recipe).encode()).hexdigest()


def _claim(out: Path, recipe: TrainRecipe) -> None:
    """Store the recipe; refuse a folder that holds a run with other settings."""
    stored = out / "recipe.yaml"
    if not stored.is_file():
        write_text(stored, dump(recipe))
        return
    try:
        same = train_recipe(stored) == recipe  # settings, not text: those added since the run began have their defaults in it
    except RecipeError:
        same = False
    if not same:
        raise TimaError(
            f"{out} holds a run with other settings (see {stored}). Give another --out, or delete the folder, "
            f"or go on with its own settings: tima train --resume {out}"
        )


def _summary(recipe: TrainRecipe, state: Progress, split: Split, quarantined: int) -> dict[str, Any]:
    from tima.results import versions

    return {
        "method": recipe.method,
        "model": recipe.model,
        "data": split.train.name,
        "eps": recipe.eps,
        "steps": recipe.steps,
        "images_seen": recipe.steps * min(recipe.batch_size, len(split.train)),
        "train_images": len(split.train),
        "train_classes": len(split.train.class_names),
        "seconds": round(state.seconds, 1),
        "best_step": state.best_step,
        "best_score": round(state.best_score, 5),
        "val": state.val,
        "seed": recipe.seed,
        "recipe_sha256": state.recipe_sha256,
        "quarantine": quarantined,
        "versions": versions(),
    }
