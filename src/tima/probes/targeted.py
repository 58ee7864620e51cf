"""Targeted attack success: how often an attacker gets the very answer he wants, not just a wrong one.

The target is drawn for each image by the seed, uniformly among the wrong classes (Kurakin et al. 2017, arXiv 1611.01236), or
given. Success means that the target is the answer; what a smaller eps reached counts at every larger one.
Shapes: `N` images, `C` classes, `E` eps.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tima.attacks import LogitsFn, find_attack
from tima.data.image_set import ImageSet
from tima.errors import DataError, RecipeError
from tima.models import DualEncoder, ZeroShotClassifier
from tima.probes.pictures import Progress, chunks, finite, generators, load_pixels, sampled, silent
from tima.probes.record import ProbeResult, Row, provenance


def draw_targets(label_N: Tensor, index_N: Tensor, classes: int, seed: int) -> Tensor:
    """A wrong class for each image, uniform; it depends on the seed and the image's index in its set only."""
    if classes < 2:
        raise DataError("A targeted attack needs at least two classes.")
    draws = generators(seed ^ 0x7A67, index_N)
    step_N = torch.stack([torch.randint(1, classes, (), generator=g) for g in draws])
    return (label_N.cpu() + step_N) % classes


def targeted_success(
    logits_fn: LogitsFn,
    image_NCHW: Tensor,
    target_N: Tensor,
    sizes: Sequence[float],
    index_N: Tensor,
    *,
    attack: str = "apgd",
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 100,
    progress: Progress = silent,
) -> Tensor:
    """Bools `(1 + E) x N`: is the target the answer? Row 0 is without an attack.

    Raises:
        RecipeError: an attack other than pgd and apgd.
        ModelError: logits that are NaN or infinite.
    """
    if attack not in ("pgd", "apgd"):
        raise RecipeError(f"The targeted probe takes the attacks pgd and apgd, not {attack}.")
    run = find_attack(attack)
    with torch.no_grad():
        clean = [logits_fn(image_NCHW[part]) for part in chunks(len(image_NCHW), batch_size)]
    reached = [finite(torch.cat(clean), "logits").argmax(1) == target_N]
    last_NCHW = image_NCHW
    for row, size in enumerate(sizes):
        found_N, next_NCHW = reached[-1].clone(), last_NCHW.clone()
        todo_N = (~found_N).nonzero()[:, 0]
        for part in chunks(len(todo_N), batch_size):
            i_B = todo_N[part]
            words: dict[str, Any] = {"targeted": True, "stop_when_broken": True, **(params or {})}
            words["generator"] = generators(seed, index_N[i_B.cpu()])
            words["start_BCHW"] = last_NCHW[i_B] if row else None
            adv_BCHW = run(logits_fn, image_NCHW[i_B], target_N[i_B], size, **words)
            next_NCHW[i_B] = adv_BCHW
            with torch.no_grad():
                found_N[i_B] = logits_fn(adv_BCHW).argmax(1) == target_N[i_B]
            progress("attack", row * len(image_NCHW) + part.stop, len(sizes) * len(image_NCHW))
        reached.append(found_N)
        last_NCHW = next_NCHW
    return torch.stack(reached)


def probe_targeted(
    model: DualEncoder,
    data: ImageSet,
    eps: Sequence[float],
    *,
    target: str | None = None,
    attack: str = "apgd",
    steps: int = 20,
    restarts: int = 1,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    model_name: str | None = None,
    progress: Progress = silent,
) -> ProbeResult:
    """Success rate at every eps.

    Args:
        target: class name for all images, those of this class left out; by default one is drawn for each image.

    Raises:
        DataError: no such class, or no image of another class.
    """
    began, sizes = time.monotonic(), sorted({float(e) for e in eps})
    chosen, whole_N = sampled(data, samples, seed)
    pixel_NCHW, index_N, bad = load_pixels(chosen)
    label_N, whole_N = chosen.label_B[index_N], whole_N[index_N]
    if target is None:
        target_N = draw_targets(label_N, whole_N, len(data.class_names), seed)
    elif target in data.class_names:
        target_N = torch.full_like(label_N, data.class_names.index(target))
        keep_N = label_N != target_N
        pixel_NCHW, label_N, whole_N, target_N = (x[keep_N] for x in (pixel_NCHW, label_N, whole_N, target_N))
    else:
        raise DataError(f"'{target}' is none of the classes: {', '.join(data.class_names)}.")
    if not len(label_N):
        raise DataError(f"Every image is of the class '{target}': there is nothing to move there.")
    device = next(model.parameters()).device
    classifier = ZeroShotClassifier(model, data.class_names, data.templates)
    words: dict[str, Any] = {"attack": attack, "params": {"steps": steps, "restarts": restarts}, "seed": seed}
    found_EN = targeted_success(
        classifier,
        pixel_NCHW.to(device).float() / 255,
        target_N.to(device),
        sizes,
        whole_N,
        batch_size=batch_size,
        progress=progress,
        **words,
    ).cpu()
    settings = {"attack": attack, "steps": steps, "restarts": restarts, "norm": "l_inf", "eps": sizes, "loss": "ce"}
    return ProbeResult(
        probe="targeted",
        about="Share of images whose answer is the target class.",
        data=data.name,
        n=len(label_N),
        seed=seed,
        settings={**settings, "target": target or "drawn by the seed", "class_names": data.class_names},
        rows=[Row.share("targeted success", found_EN[row].numpy(), eps=e) for row, e in enumerate([0.0, *sizes])],
        details={
            "index": whole_N.tolist(),
            "label": label_N.tolist(),
            "target": target_N.tolist(),
            "success": found_EN.tolist(),
        },
        quarantined=bad,
        seconds=round(time.monotonic() - began, 2),
        **provenance(model, model_name),
    )
