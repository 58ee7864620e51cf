"""The trainer: one loop for every method, on one CPU, one GPU or many.

    tima train --method tima --model nano --data pictures --eps 4/255 --out runs/x
    tima train --resume runs/x                      # goes on after a kill, to the same weights
    tima train --recipe runs/x --out runs/y lr=3e-4 # the same settings but one
    tima train --out runs/z lora.rank=8 awp.gamma=0.005 # modifiers, which combine with any method (modifiers/)
    torchrun --nproc_per_node=8 -m tima train ...   # the same weights from eight processes (docs/distributed.md)

Each step: batch -> augment -> (class texts, inner attack, loss terms: objective.py) -> clip -> update (train_step.py); now and
then validate and write a checkpoint. Randomness is keyed by (seed, step, image), so a resumed run needs no generator state, and
another number of processes draws the same numbers.
"""

import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tima._files import remove_parts, restore_folder, write_json
from tima._trackers import PROJECT, check_trackers, tracker_config, tracker_folder, tracker_options
from tima.averaging import Averages
from tima.checkpoint import Progress, load_checkpoint, save_checkpoint
from tima.config import TrainRecipe
from tima.config import validate as validate_config
from tima.data import ImageSet
from tima.distributed import Team, launched, mean_cpus, meet_anew
from tima.distributed_sharding import asked_for, check, renewed, shard_weights
from tima.errors import TrainingError
from tima.methods import Method, find_method
from tima.models import DualEncoder, load_model
from tima.modifiers import Modifiers, build_modifiers
from tima.objective import Objective
from tima.schedule import eps_at, lr_factor
from tima.split import Split, split_data
from tima.train_batch import stream
from tima.train_files import claim, fingerprint, refuse_other, save_model, settled, summary
from tima.train_log import TrainLog
from tima.train_prefetch import prefetched
from tima.train_speed import left_undone, optimizer_words, quicken
from tima.train_step import located, precision, update
from tima.validate import Score, mean_score, validate


def train(
    recipe: TrainRecipe, out: str | Path, *, progress: bool = True, images: ImageSet | None = None, shard: bool | None = None
) -> Path:
    """Train, or resume, and return the folder of the best model (Hugging Face format).

    A run that is complete is left as it is. Best means: highest mean of clean and robust accuracy over the two
    validation sets of `split.py`; no evaluation set has a say. `images` stand for `recipe.data` where they are in memory.

    Args:
        shard: keep each process's share of the weights and of the optimiser's state only (FSDP2, `distributed_sharding.py`);
            None: as `accelerate launch` says.

    Raises:
        TrainingError: the loss or gradient became NaN or infinite; another process could not go on.
        TimaError: the folder holds another run, the disk is full, data or model cannot be used.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs

    out = Path(out)
    check_trackers(recipe.trackers)
    # autocast is the recipe's business (`precision`): Accelerate's own setting is fixed for a whole Python process
    # some towers have weights that no embedding uses (DINOv2's mask token), and processes would wait for their gradients;
    # buffers are constants, the same everywhere
    wrapped = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    mean_cpus()
    meet_anew()
    accelerator = Accelerator(log_with=recipe.trackers or None, project_dir=tracker_folder(out), kwargs_handlers=[wrapped])
    if (size := launched()) > 1 and size != accelerator.num_processes:
        raise TrainingError(
            f"A launcher started {size} processes, but Accelerate joined {accelerator.num_processes}: each would train alone, "
            "into one folder. Set ACCELERATE_USE_CPU=true on CPUs, or look at the launcher's options."
        )
    device, team = accelerator.device, Team.join(accelerator.process_index, accelerator.num_processes)
    recipe = settled(recipe, out, device, team)
    refuse_other(out, recipe, team)
    if team.agree((out / "summary.json").is_file()):
        return out / "model"
    with team.together():
        shard = asked_for(shard) and team.size > 1
        if shard:
            check(recipe)
        torch.manual_seed(recipe.seed)
        method, modifiers = build_method(recipe), build_modifiers(recipe)
        student, teacher = _load_models(recipe, method, device)
        notes = quicken(student, teacher, recipe, device)
        split = _open_data(recipe, student, images, team)
        student.requires_grad_(False)
        params = modifiers.attach(student, method.trainable(student))
        for p in params.values():
            p.requires_grad_(True)
        state = Progress(recipe_sha256=fingerprint(recipe))
        # before the checkpoint is loaded: the frozen class texts are the original's, also when no teacher is kept
        objective = Objective(student, teacher, method, split.train.class_names, recipe.templates, recipe.attack).to(device)
    params |= {f"method.{name}": p for name, p in objective.own.items()}
    claim(out, recipe, team)  # not before all is known to fit: what a misspelt setting leaves is no run
    if not params:
        return _untrained(student, split, recipe, state, out, device, team)
    if shard:
        shard_weights(student, device)
        params = renewed(student, params)
    notes += left_undone(student, method, recipe)
    optimizer = build_optimizer(recipe, student, params, modifiers)
    averages = Averages(params, recipe.ema, recipe.mix, modifiers.adapters)
    state = _resume(out, state, params, optimizer, averages, team)
    if team.size > 1 and not shard:
        with warnings.catch_warnings():  # torch 2.13 has another name for it, which earlier ones do not know
            warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
            objective, optimizer = accelerator.prepare(objective, optimizer)
    accelerator.init_trackers(PROJECT, config=tracker_config(recipe), init_kwargs=tracker_options(recipe.trackers, out))
    show, tracker = progress and team.main, accelerator.log
    log = TrainLog(out, recipe, state.step, show=show, write=team.main, tracker=tracker, team=team)
    began = time.monotonic() - state.seconds

    with log:
        log.notes(split, params, device)
        if recipe.max_classes is not None and method.text_tower == "none":
            log.console.print(f"max_classes has no effect: '{recipe.method}' trains no text tower, its texts are encoded once.")
        said = 0
        for step, batch in prefetched(stream(split.train, recipe, method.needs_captions, state.step, team, log), device):
            eps = eps_at(recipe, step)
            lr = recipe.lr * lr_factor(recipe, step)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            outcome = update(objective, optimizer, accelerator, recipe, step, batch, eps, params, modifiers, state, out, team)
            averages.update(step)
            state.step = step + 1
            log.step(step, outcome, lr, eps)
            for line in notes[said:]:  # whether something compiles is known once it has run
                log.console.print(line)
            said = len(notes)
            last = state.step == recipe.steps
            if state.step % recipe.val_every == 0 or last:
                with averages.applied(), modifiers.outgoing(), located("validation", step, state, out):
                    scores = _validate(student, split, recipe, device, team)
                    score = log.validation(state.step, scores)
                    if score > state.best_score:  # the same scores in all processes
                        state.best_score, state.best_step = score, state.step
                        state.val = {name: s.record() for name, s in scores.items()}
                        save_model(student, out / "model", team, recipe.model)
            if state.step % recipe.save_every == 0 or last:
                state.seconds = time.monotonic() - began
                save_checkpoint(out / "checkpoint", params, optimizer, state, averages, team)
        finished = summary(recipe, state, split, quarantined=len(log.bad_seen))
        team.main_does(lambda: write_json(out / "summary.json", finished))
    for tracker in accelerator.trackers:  # not `end_training`: it also ends the process group, which the caller may go on using
        tracker.finish()
    return out / "model"


def _load_models(recipe: TrainRecipe, method: Method, device: torch.device) -> tuple[DualEncoder, DualEncoder | None]:
    """Student and, where the method needs one, frozen teacher."""
    student = load_model(recipe.model).to(device)
    teacher = load_model(recipe.model).to(device).requires_grad_(False) if method.needs_teacher else None
    return student, teacher


def _open_data(recipe: TrainRecipe, student: DualEncoder, images: ImageSet | None, team: Team) -> Split:
    """The three sets; decoded once and kept where that pays."""
    split = split_data(recipe, student.image_size, images)
    # a short run sees few of the pictures, each once, and each process its share of them
    if 2 * recipe.steps * recipe.batch_size >= len(split.train) * team.size:
        split.train.preload()
    for part in (split.seen, split.unseen):
        if part is not None and part.shard_B is not None:  # drawn from everywhere: else each validation reads all shards
            part.preload()
    return split


def _resume(
    out: Path,
    state: Progress,
    params: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    averages: Averages,
    team: Team,
) -> Progress:
    """Where the run's checkpoint stands, in every process; its beginning where there is none.

    Raises:
        TrainingError: the processes see different checkpoints.
    """
    for folder in ("checkpoint", "model"):
        team.main_does(lambda folder=folder: restore_folder(out / folder))  # type: ignore[misc]
        team.main_does(lambda folder=folder: remove_parts(out / folder))  # type: ignore[misc]
    if team.agree((out / "checkpoint" / "state.pt").is_file()):
        with team.together():
            state = load_checkpoint(out / "checkpoint", params, optimizer, averages)
    if len(steps := set(team.everyone(state.step))) > 1:
        raise TrainingError(
            f"{out / 'checkpoint'} is at steps {sorted(steps)}, depending on the machine. Is the disk a shared one?"
        )
    return state


def _untrained(
    student: DualEncoder, split: Split, recipe: TrainRecipe, state: Progress, out: Path, device: torch.device, team: Team
) -> Path:
    """A method that trains nothing: the model as it is, validated once."""
    scores = _validate(student, split, recipe, device, team)
    state.val = {name: score.record() for name, score in scores.items()}
    state.best_score = mean_score(scores)
    save_model(student, out / "model", team)
    finished = summary(recipe, state, split, quarantined=0) | {"steps": 0, "images_seen": 0}
    team.main_does(lambda: write_json(out / "summary.json", finished))
    return out / "model"


def _validate(student: DualEncoder, split: Split, recipe: TrainRecipe, device: torch.device, team: Team) -> dict[str, Score]:
    sets = {"seen": split.seen} | ({"unseen": split.unseen} if split.unseen is not None else {})
    # as many at once as a step has: more may not fit, and would be another size for torch.compile
    piece = -(-recipe.batch_size // (team.size * recipe.accumulate))
    how = {"seed": 0, "batch_size": piece, "device": device, "team": team}
    with precision(recipe, device):
        return {
            name: validate(student, part, recipe.eps, recipe.val_attack_steps, **how)  # type: ignore[arg-type]
            for name, part in sets.items()
        }


def build_method(recipe: TrainRecipe) -> Any:
    method_class = find_method(recipe.method)
    return method_class(validate_config(method_class.Config, recipe.method_config, f"method_config of '{recipe.method}'"))


def build_optimizer(
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
    return torch.optim.AdamW(listed, lr=recipe.lr, betas=(0.9, 0.98), eps=1e-8, **optimizer_words(list(params.values())))
