"""What a step loses when it sees a sample of the classes, and MHE some of its pairs: loss, gradient, attack, against the whole.

    python benchmarks/class_sample.py                 # some minutes; -> results/scaling/class_sample.json
    python benchmarks/class_sample.py --classes 300 --draws 2 --warm 2 --results /tmp/x   # to try it

The model is nano after some steps of TIMA, so that tuned and frozen texts differ; the classes are the 300 of its training set
and the same with words in front. Gradients are those of TIMA's loss as shipped, in fp32. As a measure of how large an error is,
the same numbers for another batch of images with all classes.

Shapes: `B` images, `C` classes, `M` of a sample, `K` columns, `P` parameters.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _machine import machine
from _words import class_names
from torch import Tensor

from tima.class_sample import ClassSample, draw_classes
from tima.config import AttackSettings, TrainRecipe
from tima.data import find_data
from tima.methods import terms
from tima.methods.tima import Tima
from tima.models import load_model
from tima.objective import Objective, Outcome
from tima.train import train

RESULTS = Path(__file__).parent / "results" / "scaling"
SIZES = (32, 64, 128, 256, 512, 1000)
EPS = 4 / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--warm", type=int, default=40, help="steps of TIMA before the comparison")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainRecipe(steps=options.warm, batch_size=64, eps_warmup=0, val_every=options.warm, val_samples=8, seed=1)
        tuned = train(settings, Path(folder) / "run", progress=False)
        student = load_model(tuned)
    teacher = load_model("nano").requires_grad_(False)
    record: dict[str, Any] = {"machine": machine(), "warm": options.warm, "draws": options.draws, "rows": [], "mhe": []}
    for n_classes in options.classes:
        names = class_names(n_classes)
        for batch in options.batch:
            record["rows"] += compare(student, teacher, names, batch, options.draws)
        record["mhe"] += energies(student, names, options.draws)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "class_sample.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record["mhe"], indent=1))


def compare(student: Any, teacher: Any, names: Sequence[str], batch: int, draws: int) -> list[dict[str, Any]]:
    """Rows for each size of the sample, with and without weights, and one for another batch with all classes."""
    method = Tima()
    student.requires_grad_(False)
    for p in method.trainable(student).values():
        p.requires_grad_(True)
    objective = Objective(student, teacher, method, names, ["a photo of a {c}."], AttackSettings())
    text = set(map(id, student.text_parameters().values()))
    images = find_data("pictures:train", image_size=student.image_size)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=generator)
    found = [images.collate(images.__getitems__(order[a : a + batch].tolist())) for a in (0, batch)]
    (pixels, label), (other_pixels, other_label) = ((b.image_BCHW.float() / 255, b.label_B) for b in found)

    def step(x: Tensor, y: Tensor, classes: ClassSample | None, adv: Tensor | None) -> tuple[Outcome, dict[str, Tensor]]:
        objective.zero_grad()
        outcome = objective(x, y, EPS, EPS, torch.Generator().manual_seed(2), adv_BCHW=adv, classes=classes)
        torch.stack(list(outcome.terms.values())).sum().backward()
        towers: dict[str, list[Tensor]] = {"image": [], "text": []}
        for p in objective.parameters():
            if p.grad is not None:
                towers["text" if id(p) in text else "image"].append(p.grad.flatten().clone())
        return outcome, {tower: torch.cat(parts) for tower, parts in towers.items()}

    whole, gradient = step(pixels, label, None, None)
    other, other_gradient = step(other_pixels, other_label, None, None)
    assert whole.adv_BCHW is not None
    with torch.no_grad():
        text_CD = objective._class_texts(range(len(names)))
    reached, clean = (full_ce(student, text_CD, x, label) for x in (whole.adv_BCHW, pixels))
    about = {"classes": len(names), "batch": batch, "present": len(label.unique())}
    rows = [
        about
        | {"sample": "another batch", "loss": ratios(other, whole)}
        | {f"cosine_{t}": float(F.cosine_similarity(other_gradient[t], gradient[t], 0)) for t in gradient}
    ]
    for size in (m for m in SIZES if m < len(names)):
        for weighed in (True, False):
            outcomes, gradients, attacks = [], [], []
            for draw in range(draws):
                classes = draw_classes(len(names), label, size, 100 + draw, correct=weighed)
                # losses and gradients on the same adversarial images; the attack on the sample apart
                outcome, g = step(pixels, label, classes, whole.adv_BCHW)
                outcomes.append(outcome)
                gradients.append(g)
                fresh = objective(pixels, label, EPS, EPS, torch.Generator().manual_seed(2), classes=classes)
                attacks.append((full_ce(student, text_CD, fresh.adv_BCHW, label) - clean) / (reached - clean))
            row: dict[str, Any] = about | {"sample": size, "weighed": weighed}
            row["loss"] = {
                name: statistics.fmean(float(o.terms[name].detach()) for o in outcomes) / float(whole.terms[name].detach())
                for name in whole.terms
            }
            for tower, target in gradient.items():
                cosines = [float(F.cosine_similarity(g[tower], target, 0)) for g in gradients]
                mean = torch.stack([g[tower] for g in gradients]).mean(0)
                row[f"cosine_{tower}"] = statistics.fmean(cosines)
                row[f"cosine_of_mean_{tower}"] = float(F.cosine_similarity(mean, target, 0))
                row[f"length_{tower}"] = float(mean.norm() / target.norm())
            row["attack"] = statistics.fmean(attacks)
            rows.append(row)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items() if k != "loss"}, flush=True)
    return rows


@torch.no_grad()
def full_ce(student: Any, text_CD: Tensor, image_BCHW: Tensor, label_B: Tensor) -> float:
    """Cross-entropy over all classes."""
    return float(F.cross_entropy(student.logits(student.encode_image(image_BCHW), text_CD), label_B))


def ratios(some: Outcome, whole: Outcome) -> dict[str, float]:
    return {name: float(some.terms[name].detach() / whole.terms[name].detach()) for name in whole.terms}


def energies(student: Any, names: Sequence[str], draws: int) -> list[dict[str, Any]]:
    """MHE from K columns: relative standard error of the value, and the gradient's cosine with the whole."""
    with torch.no_grad():
        text_CD = torch.cat(
            [student.encode_text([f"a photo of a {n}." for n in names[a : a + 512]]) for a in range(0, len(names), 512)]
        )

    def energy(column_K: Tensor | None) -> tuple[float, Tensor]:
        text = text_CD.clone().requires_grad_()
        value = terms.mhe(text, 2.0, column_K)
        return float(value.detach()), torch.autograd.grad(value, text)[0].flatten()

    whole, gradient = energy(None)
    cosine_CC = text_CD @ text_CD.T
    mean_C = ((1 / (3 - 2 * cosine_CC)).sum(1) - 1) / (len(names) - 1)  # of each class to the others
    rows = []
    for count in (k for k in (64, 256, 1024, 4096) if k < len(names)):
        drawn = [torch.randperm(len(names), generator=torch.Generator().manual_seed(d))[:count] for d in range(max(draws, 20))]
        values, gradients = zip(*(energy(k) for k in drawn), strict=True)
        expected = float(mean_C.std()) * ((1 - count / len(names)) / count) ** 0.5
        rows.append(
            {
                "classes": len(names),
                "columns": count,
                "value": whole,
                "relative_standard_error": statistics.stdev(values) / whole,
                "predicted": expected / whole,
                "relative_bias": statistics.fmean(values) / whole - 1,
                "cosine": statistics.fmean(float(F.cosine_similarity(g, gradient, 0)) for g in gradients),
            }
        )
    return rows


if __name__ == "__main__":
    main()
