"""Does training on the fast path cost accuracy? The same runs in bf16 and in fp32, several seeds, judged in fp32.

    python benchmarks/fast_path_accuracy.py            # half an hour on one core; -> results/training/accuracy.json
    python benchmarks/fast_path_accuracy.py --steps 4 --samples 16 --seeds 1 --results /tmp/x    # to try it

Both runs of a pair see the same pictures, augmentation and noise. Each run and each evaluation is stored when it is done, so
the script goes on where it was stopped. PGD-10 in fp32 through the library's model, last iterate of the loss kept best.
Shapes: `N` images.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from _machine import machine

from tima.attacks import pgd
from tima.config import TrainRecipe
from tima.data import ImageSet, find_data
from tima.models import ZeroShotClassifier, load_model
from tima.split import split_data
from tima.train import train

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "training"
EPS = 4 / 255
TARGET = 0.5  # points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["tecoa", "tima"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--samples", type=int, default=1000, help="images of each evaluation set")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "fast-path")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    sets = evaluation_sets(options.samples)
    record: dict[str, Any] = {
        "machine": machine(),
        "steps": options.steps,
        "batch": options.batch,
        "target": TARGET,
        "rows": [],
    }
    for method in options.methods:
        found: dict[tuple[str, str, int], dict[str, list[bool]]] = {}
        for seed in range(options.seeds):
            for precision in ("bf16", "fp32"):
                folder = options.runs / f"{method}-{precision}-{seed}-{options.steps}x{options.batch}"
                model = train(recipe_of(method, precision, seed, options), folder, progress=False)
                for name, images in sets.items():
                    found[name, precision, seed] = judged(model, images, folder / f"{name}-{options.samples}.json")
        for name in sets:
            for measure in ("clean", "robust"):
                pairs = [tuple(found[name, p, s][measure] for p in ("bf16", "fp32")) for s in range(options.seeds)]
                record["rows"].append({"method": method, "data": name, "measure": measure} | compared(pairs))
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "accuracy.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record["rows"], indent=1))


def recipe_of(method: str, precision: str, seed: int, options: argparse.Namespace) -> TrainRecipe:
    return TrainRecipe(
        method=method,
        precision=precision,  # type: ignore[arg-type]
        seed=seed,
        steps=options.steps,
        batch_size=options.batch,
        eps=EPS,
        val_every=options.steps,  # the last weights, not those that validation likes best
        val_samples=8,
        save_every=options.steps,
    )


def evaluation_sets(samples: int) -> dict[str, ImageSet]:
    """Pictures that no run trains on (of seen and of held-out classes), and another data set."""
    size = load_model("nano").image_size
    recipe = TrainRecipe(val_samples=samples)
    split = split_data(recipe, size)
    sets = {"pictures, seen classes": split.seen, "cifar10": find_data("cifar10", image_size=size).sample(samples, 0)}
    return sets | ({"pictures, held-out classes": split.unseen} if split.unseen is not None else {})


def judged(model: Path, images: ImageSet, file: Path) -> dict[str, list[bool]]:
    """For each image, whether it is right when clean and when attacked."""
    if file.is_file():
        stored: dict[str, list[bool]] = json.loads(file.read_text())
        return stored
    classifier = ZeroShotClassifier(load_model(model), images.class_names, images.templates)
    batch = images.collate(images.__getitems__(range(len(images))))
    pixel_NCHW, label_N = batch.image_BCHW.float() / 255, batch.label_B
    with torch.no_grad():
        clean_N = torch.cat([classifier(part).argmax(1) for part in pixel_NCHW.split(64)]) == label_N
    robust_N = clean_N.clone()
    if bool(clean_N.any()):
        x, y = pixel_NCHW[clean_N], label_N[clean_N]
        generators = [torch.Generator().manual_seed(i) for i in clean_N.nonzero()[:, 0].tolist()]
        adv = pgd(classifier, x, y, EPS, steps=10, stop_when_broken=True, generator=generators, batch_size=64)
        with torch.no_grad():
            robust_N[clean_N] = torch.cat([classifier(part).argmax(1) for part in adv.split(64)]) == y
    answer = {"clean": clean_N.tolist(), "robust": robust_N.tolist()}
    file.write_text(json.dumps(answer), encoding="utf-8")
    return answer


def compared(pairs: list[tuple[list[bool], ...]]) -> dict[str, Any]:
    """bf16 minus fp32 in points: the mean over seeds, its 95 % interval over images, and each seed's difference."""
    differences = [[100.0 * (int(a) - int(b)) for a, b in zip(fast, exact, strict=True)] for fast, exact in pairs]
    by_image = [statistics.fmean(values) for values in zip(*differences, strict=True)]
    mean, n = statistics.fmean(by_image), len(by_image)
    half = 1.96 * statistics.stdev(by_image) / math.sqrt(n) if n > 1 else math.inf
    return {
        "n": n,
        "bf16": [100 * statistics.fmean(fast) for fast, _ in pairs],
        "fp32": [100 * statistics.fmean(exact) for _, exact in pairs],
        "difference": mean,
        "interval": [mean - half, mean + half],
        "by_seed": [statistics.fmean(values) for values in differences],
        "within": abs(mean) <= TARGET,
        "decided": abs(mean) + half <= TARGET or abs(mean) - half > TARGET,
    }


if __name__ == "__main__":
    main()
