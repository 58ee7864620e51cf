"""Put a finished `tima pretrain` run into the package as `nano`, with a model card whose figures are measured here.

    python tools/install_nano.py runs/nano --before runs/nano-first runs/nano-second --data cifar10,groceries

`--before` are the runs that this one grew from, oldest first; their recipes and logs go into the package as well, and a
`note.txt` of a run, where it departed from its recipe, into the card. Sets outside the package
are taken from the folders in TIMA_DATA. Accuracies are zero-shot top-1 on whole test sets with each set's own templates
averaged, with 95 % Wilson intervals.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from tima._files import atomic_folder, sha256_file
from tima.config import recipes_folder
from tima.data import find_data
from tima.models import DualEncoder, load_model, nano_folder
from tima.pretrain import PretrainRecipe
from tima.pretrain.run import count_right
from tima.pretrain.sources import gather_pairs
from tima.stats import wilson

ROLE = {
    "cifar10": "held out",
    "groceries": "held out",
    "fashion-mnist": "held out",
    "quickdraw": "held out",
    "imagenette": "held out",
    "pacs-photo": "held out",
    "pacs-sketch": "held out",
    "rsscn7": "held out",
    "intel-scenes": "held out",
    "cifar100": "new images of trained classes",
    "tiny-imagenet-32": "new images of trained classes",
    "pictures": "new pictures of trained classes",
}


def zero_shot(model: DualEncoder, name: str) -> dict[str, Any]:
    split = "val" if name == "pictures" else None
    images = find_data(name, split, model.image_size)
    hits, n = count_right(model, images)
    low, high = wilson(hits, n)
    return {"data": name, "classes": len(images.class_names), "n": n, "accuracy": hits / n, "low": low, "high": high}


def how(runs: list[Path]) -> str:
    """The paragraphs on the training, a run each, oldest first."""
    parts = [f"How, in {len(runs)} run{'s' if len(runs) > 1 else ''}, each image tower from where the one before ended."]
    for number, run in enumerate(runs, 1):
        recipe = read_recipe(run)
        image, text = recipe.image, recipe.text
        some = [f"{s.data.split(':')[0]}: {s.per_class} pictures a class" for s in recipe.images if s.per_class]
        said = [f"{image.steps:,} steps of the contrastive and distillation loss on pictures, batch {image.batch_size}"]
        said += [f"{image.optimizer} at learning rate {image.lr:g}", f"{recipe.keep_patches:.0%} of the patches"]
        said += [f"all of them in the last {recipe.whole_share:.0%}", *some]
        said += [f"the teacher at {recipe.teacher_image_size} px"] if recipe.teacher_image_size else []
        said += ["captions that may say what a class is a kind of"] if recipe.broader else []
        said += [f"kept: the running mean of the weights (decay {image.ema})"] if image.ema else []
        begins = f"{text.steps:,} steps of text distillation; " if recipe.start is None else "the text tower as it is; "
        note = run / "note.txt"
        more = " " + note.read_text(encoding="utf-8").strip() if note.is_file() else ""
        parts.append(f"{number}. {begins}{', '.join(said)}. Weights sha256 `{sha256_file(weights(run))}`.{more}")
    parts.append(
        "Recipes and logs: `recipe.yaml` and `metrics.jsonl` of the last run, `run-1-recipe.yaml` and so on of those before."
    )
    return "\n".join(parts)


def read_recipe(run: Path) -> PretrainRecipe:
    """The settings that a run kept."""
    return PretrainRecipe(**yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8")))


def all_corpora(runs: list[Path]) -> dict[str, int]:
    """The pictures of each source that any of the runs saw: a run may take part of what one before it took."""
    most: dict[str, int] = {}
    for run in runs:
        for name, n in gather_pairs(read_recipe(run)).corpora.items():
            most[name] = max(n, most.get(name, 0))
    return most


def weights(run: Path) -> Path:
    """The weights of a run, or of a model's folder."""
    return next(f for f in (run / "model" / "model.safetensors", run / "model.safetensors") if f.is_file())


def card(
    run: Path,
    rows: list[dict[str, Any]],
    corpora: dict[str, int],
    model: DualEncoder,
    before: list[Path],
) -> str:
    where = {
        "cifar100": ("CIFAR-100 train", "none formally stated (Krizhevsky 2009)"),
        "tiny-imagenet-32": ("Tiny-ImageNet train at 32 px", "ImageNet's terms: non-commercial research"),
        "pictures": ("`pictures` train, embedded in this package", "see assets/data/LICENSES.md"),
        "captions": ("`pictures` captions, embedded in this package", "see assets/data/LICENSES.md"),
    }
    count = {
        part: sum(p.numel() for p in params.values())
        for part, params in (("image", model.image_parameters()), ("text", model.text_parameters()))
    }
    sources = "\n".join(f"| {where[name][0]} | {n:,} | {where[name][1]} |" for name, n in corpora.items())
    scores = "\n".join(
        f"| {r['data']} | {ROLE.get(r['data'], '')} | {r['classes']} | {r['n']:,} | {100 / r['classes']:.1f} "
        f"| {100 * r['accuracy']:.1f} | {100 * r['low']:.1f} to {100 * r['high']:.1f} |"
        for r in rows
    )
    millions = {part: f"{n / 1e6:.1f}" for part, n in (*count.items(), ("all", sum(count.values())))}
    return f"""---
license: other
library_name: transformers
pipeline_tag: zero-shot-image-classification
tags: [clip, zero-shot, adversarial-robustness]
---

# nano

A CLIP of {millions["all"]} M parameters (image tower {millions["image"]} M, text tower {millions["text"]} M), made so that
robust fine-tuning can be tried and tested in minutes on two CPU cores. Hugging Face `CLIPModel` format, float16 safetensors,
{model.image_size} px, patch {model.backbone.config.vision_config.patch_size}, with a byte-level BPE tokenizer of its own.
It is a tool for development and teaching, not a model to ship.

```python
from tima import load_model

model = load_model("nano")
# or: transformers.CLIPModel.from_pretrained(<this folder>)
```

## What it saw

| pictures | number | licence |
|---|--:|---|
{sources}

Texts without pictures: nouns and definitions of WordNet 3.0 (Princeton University, WordNet licence), put into templates.
Teacher of both towers: a dual encoder of DINOv2 ViT-S/14 and all-MiniLM-L6-v2 (both Apache-2.0), aligned with
a locked image tower on Tiny-ImageNet at 32 px, CIFAR-100 and drawings with captions. No image of CIFAR-10 or of any set
marked "held out" below was seen by `nano`; the words of their class names are ordinary nouns and were.

{how([*before, run])}

## What it can do

Zero-shot top-1 accuracy in percent, each set's templates averaged, 95 % Wilson intervals. Measured by
`tools/install_nano.py`; the numbers are in `zero_shot.json`.

| data | role | classes | n | chance | accuracy | 95 % |
|---|---|--:|--:|--:|--:|--:|
{scores}

It is not robust: that is what the rest of this package is for.

Weights sha256: `{sha256_file(weights(run))}`
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default=",".join(ROLE))
    parser.add_argument("--before", type=Path, nargs="*", default=[], help="the runs that this one grew from, oldest first")
    parser.add_argument("--dry-run", action="store_true", help="measure and print, install nothing")
    args = parser.parse_args()
    model = load_model(args.run / "model")
    rows = []
    for name in args.data.split(","):
        rows.append(zero_shot(model, name))
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    if args.dry_run:
        return
    recipe = yaml.safe_load((args.run / "recipe.yaml").read_text(encoding="utf-8"))
    corpora = all_corpora([*args.before, args.run])
    text = card(args.run, rows, corpora, model, args.before)
    with atomic_folder(nano_folder()) as folder:  # whoever loads nano meanwhile has the old one or the new one
        shutil.copytree(args.run / "model", folder, dirs_exist_ok=True)
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / "zero_shot.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        shutil.copy(args.run / "metrics.jsonl", folder / "metrics.jsonl")
        for key in ("teacher", "nouns", "sentences"):  # names, not the paths of the machine that ran it
            recipe[key] = Path(recipe[key]).name
        if recipe["start"] is None:
            recipe["tokenizer"] = "nano"  # learning one anew breaks ties at random; with this one the run repeats exactly
        else:
            recipe["start"] = yaml.safe_load((recipes_folder() / "nano.yaml").read_text(encoding="utf-8"))["start"]
        for number, run in enumerate(args.before, 1):
            for name in ("recipe.yaml", "metrics.jsonl"):
                shutil.copy(run / name, folder / f"run-{number}-{name}")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(0o644)


if __name__ == "__main__":
    main()
