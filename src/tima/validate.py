"""Validation inside training: clean and robust accuracy on held-out images and on held-out classes.

A quick PGD, the same at every call, in the precision of training; the numbers choose checkpoints and are never results.
"""

from dataclasses import asdict, dataclass

import torch

from tima.attacks import pgd
from tima.data import ImageSet
from tima.models import DualEncoder, ZeroShotClassifier
from tima.schedule import step_seed


@dataclass(frozen=True)
class Score:
    """Fractions in [0, 1]. `one_class`: every adversarial image got the same answer."""

    clean_accuracy: float
    robust_accuracy: float
    n: int
    one_class: bool

    def record(self) -> dict[str, float | int | bool]:
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(self).items()}


def mean_score(scores: dict[str, Score]) -> float:
    """What chooses the best checkpoint: the mean of clean and robust accuracy over the validation sets."""
    return sum((s.clean_accuracy + s.robust_accuracy) / 2 for s in scores.values()) / len(scores)


def validate(
    model: DualEncoder, images: ImageSet, eps: float, steps: int, *, seed: int, batch_size: int, device: torch.device
) -> Score:
    """Score `model` on `images` with PGD of `steps` steps at `eps` (pixel units of [0, 1])."""
    classifier = ZeroShotClassifier(model, images.class_names, images.templates).eval()
    clean = robust = n = 0
    answers: set[int] = set()
    for start in range(0, len(images), batch_size):
        batch = images.collate(images.__getitems__(range(start, min(start + batch_size, len(images)))))
        if not len(batch.label_B):
            continue
        image_BCHW, label_B = batch.image_BCHW.to(device).float() / 255, batch.label_B.to(device)
        with torch.no_grad():
            right_B = classifier(image_BCHW).argmax(-1) == label_B
        generator = torch.Generator(device).manual_seed(step_seed(seed, start, 7))
        adv_BCHW = pgd(classifier, image_BCHW, label_B, eps, steps=steps, generator=generator) if eps > 0 else image_BCHW
        with torch.no_grad():
            adv_answer_B = classifier(adv_BCHW).argmax(-1)
        answers.update(adv_answer_B.tolist())
        clean += int(right_B.sum())
        robust += int((right_B & (adv_answer_B == label_B)).sum())
        n += len(label_B)
    return Score(clean / max(n, 1), robust / max(n, 1), n, len(answers) == 1 and n > 1)
