"""The jobs that are timed: the real trainer for a few steps, a forward pass, an attack. Shapes: `B` images, `C` classes.

A run of the trainer starts as a user's would (model from its folder, data set, optimiser, loader) and is ended by the probe
after the steps wanted; what it wrote is removed.
"""

import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tima.attacks import pgd
from tima.bench.counting import attention_share, counter
from tima.bench.images import random_images
from tima.bench.peak import wait
from tima.bench.phases import Phases
from tima.bench.probe import Enough, Probe, watching
from tima.config import TrainRecipe
from tima.models import ZeroShotClassifier
from tima.models.fast import attack_model


@dataclass(frozen=True)
class TrainJob:
    """Training steps of one method.

    Attributes:
        recipe: what the trainer is given; its number of steps is not used.
        classes: length of the class list.
        steps: steps timed in each run, after one that warms up.
    """

    recipe: TrainRecipe
    classes: int
    steps: int

    def count(self) -> dict[str, Any]:
        """Passes and operations of one step. The counter makes it slow, so nothing is timed here."""
        with counter() as flops:
            phases = Phases(lambda: float(flops.get_total_flops()))
            probe, found = self._run(phases, steps=1, warm=0)
        passes = dict(probe.passes)
        images = passes.pop("images")
        student = probe.student
        assert student is not None
        return {
            "passes": {name: n if name.startswith("texts") else n / images for name, n in passes.items()},
            "flop": found[0],
            "attention_share": attention_share(flops),
            "lean": student.is_lean,
            "trained": sum(p.numel() for p in student.parameters() if p.requires_grad),
            "text_tokens": _longest(student, random_images(1, self.classes, student.image_size).class_names, self.recipe),
        }

    def time(self) -> dict[str, float]:
        """Seconds of a step by phase, mean over the steps of one run."""
        _, found = self._run(Phases(time.perf_counter), steps=self.steps, warm=1)
        return {name: sum(step[name] for step in found) / len(found) for name in found[0]}

    def _run(self, phases: Phases, steps: int, warm: int) -> tuple[Probe, list[dict[str, float]]]:
        from tima.train import train

        found: list[dict[str, float]] = []

        def after(probe: Probe) -> None:
            assert probe.student is not None
            wait(probe.student.mean_C11.device)  # a step has taken what it took when the device is done with it
            found.append(phases.take())
            if len(found) == steps + warm:
                raise Enough

        probe = Probe(phases, after)
        n = 4 * self.recipe.batch_size + 8
        images = random_images(n, self.classes, 32)  # the trainer sets the size
        more = steps + warm + 1  # than are run: the probe ends it before the last step's validation and checkpoint
        long = {"steps": more, "val_every": more, "save_every": more, "warmup": 0.0, "eps_warmup": 0.0}
        small = {"held_out_classes": 0.0, "val_samples": 1, "val_images": 0.01}
        recipe = self.recipe.model_copy(update=long | small)
        with tempfile.TemporaryDirectory(prefix="tima-bench-") as folder, watching(probe), suppress(Enough):
            train(recipe, Path(folder) / "run", progress=False, images=images)
        return probe, found[warm:]


def _longest(student: Any, class_names: list[str], recipe: TrainRecipe) -> int:
    """Tokens of the longest prompt."""
    texts = [template.replace("{c}", class_names[-1]) for template in recipe.templates]
    return int(student.tokenize(texts)["input_ids"].shape[1])


@dataclass(frozen=True)
class TowerJob:
    """Passes of the image tower outside training, as evaluations make them.

    Attributes:
        classifier: of random images.
        kind: `evaluation forward` (the model itself, fp32, what results are judged with), `forward` (as attacks call it) or
            `attack step` (forward and backward to the pixels, PGD's own work included).
        precision: of the last two.
        batch, steps: images at once; calls a repeat.
    """

    classifier: ZeroShotClassifier
    kind: str
    precision: str
    batch: int
    steps: int

    def count(self) -> dict[str, Any]:
        """Operations of one call."""
        with counter() as flops:
            self._call(1)
        return {"flop": {self.kind: float(flops.get_total_flops())}, "attention_share": attention_share(flops)}

    def time(self) -> dict[str, float]:
        """Seconds of one call."""
        device = self.classifier.text_CD.device
        self._call(1)
        wait(device)
        began = time.perf_counter()
        self._call(self.steps)
        wait(device)
        return {self.kind: (time.perf_counter() - began) / self.steps}

    def _call(self, times: int) -> None:
        model = self.classifier.model
        generator = torch.Generator().manual_seed(0)
        image_BCHW = torch.rand(self.batch, 3, model.image_size, model.image_size, generator=generator)
        image_BCHW = image_BCHW.to(self.classifier.text_CD.device)
        asked: Any = self.classifier if self.kind == "evaluation forward" else attack_model(self.classifier, self.precision)
        if self.kind == "attack step":
            label_B = torch.zeros(self.batch, dtype=torch.long, device=image_BCHW.device)
            pgd(asked, image_BCHW, label_B, 4 / 255, steps=times, keep_best=False)
            return
        with torch.no_grad():
            for _ in range(times):
                asked(image_BCHW)
