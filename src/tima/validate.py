"""Validation inside training: clean and robust accuracy on held-out images and on held-out classes.

A quick PGD, the same at every call, in the precision of training; the numbers choose checkpoints and are never results.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from tima.attacks import pgd
from tima.data import ImageSet
from tima.distributed import Team
from tima.models import DualEncoder, ZeroShotClassifier
from tima.objective import frozen
from tima.schedule import image_seeds, step_seed


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
    model: DualEncoder,
    images: ImageSet,
    eps: float,
    steps: int,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    team: Team | None = None,
) -> Score:
    """Score `model` on `images` with PGD of `steps` steps at `eps` (pixel units of [0, 1]).

    Several processes take a share each and count together: the same score in all of them. Random numbers belong to the image.
    Every process makes the same passes, for one whose weights are spread over all of them can make none alone: a share that is
    one short is filled up, and a picture that cannot be read is a black one, neither of which counts.
    """
    team = team or Team()
    classifier = ZeroShotClassifier(model, images.class_names, images.templates).eval()
    seeds = image_seeds(len(images), step_seed(seed, 0, 7))
    own = list(range(team.rank, len(images), team.size))
    filler = -(-len(images) // team.size) - len(own)
    clean = robust = n = 0
    answers: set[int] = set()
    with frozen(model):  # the attack then asks for no gradient of a weight, as the one inside training does
        for start in range(0, len(own) + filler, batch_size):
            items = images.__getitems__([*own, *[0] * filler][start : start + batch_size])
            black = torch.zeros(3, images.image_size, images.image_size, dtype=torch.uint8)
            image_BCHW = torch.stack([image if isinstance(image, Tensor) else black for image, _, _ in items])
            image_BCHW, label_B = (
                image_BCHW.to(device).float() / 255,
                torch.tensor([label for _, label, _ in items], device=device),
            )
            counts = [start + i < len(own) and isinstance(image, Tensor) for i, (image, _, _) in enumerate(items)]
            counts_B = torch.tensor(counts, device=device)
            with torch.no_grad():
                right_B = counts_B & (classifier(image_BCHW).argmax(-1) == label_B)
            generators = [torch.Generator(device).manual_seed(seeds[index]) for _, _, index in items]
            adv_BCHW = pgd(classifier, image_BCHW, label_B, eps, steps=steps, generator=generators) if eps > 0 else image_BCHW
            with torch.no_grad():
                adv_answer_B = classifier(adv_BCHW).argmax(-1)
            answers.update(adv_answer_B[counts_B].tolist())
            clean += int(right_B.sum())
            robust += int((right_B & (adv_answer_B == label_B)).sum())
            n += int(counts_B.sum())
    clean, robust, n = map(int, team.total([clean, robust, n]))
    answers = set().union(*team.everyone(answers))
    return Score(clean / max(n, 1), robust / max(n, 1), n, len(answers) == 1 and n > 1)
