"""Put a finished `tima pretrain` run into the package as `nano`, with a model card whose figures are measured here.

    python tools/install_nano.py runs/nano --first runs/nano-first --data cifar10,groceries,fashion-mnist,quickdraw

`--first` is the run that this one started from; its recipe and log go into the package as well. Sets outside the package
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


def how(recipe: dict[str, Any], first: Path | None, note: str) -> str:
    """The paragraph on the training, of one run or of two in a row."""

    def image(r: dict[str, Any]) -> str:
        return (
            f"{r['image']['steps']:,} steps of symmetric contrastive loss with image distillation, "
            f"batch {r['image']['batch_size']}, learning rate {r['image']['lr']:g}"
        )

    if first is None:
        return (
            f"How: `tima pretrain --recipe nano-first`: {recipe['text']['steps']:,} steps of text distillation, then "
            f"{image(recipe)}. The exact recipe is `recipe.yaml` beside this file; the run's log is `metrics.jsonl`."
        )
    before = yaml.safe_load((first / "recipe.yaml").read_text(encoding="utf-8"))
    some = [s for s in before["images"] if s.get("per_class")]
    fewer = "".join(f" ({s['data'].split(':')[0]}: {s['per_class']} pictures a class)" for s in some)
    ema = recipe["image"].get("ema", 0)
    kept = f"the running mean of the weights (decay {ema})" if ema else "the last weights"
    return f"""How, in two runs. The first (`tima pretrain --recipe nano-first`), from random weights:
{before["text"]["steps"]:,} steps of text distillation, then
{image(before)}{fewer}.
The second (`--recipe nano`) **started from the first one's weights** (sha256 `{sha256_file(weights(first))}`),
kept the text tower as it was, and trained the image tower on:
{image(recipe)}, on all pictures above;
what is kept: {kept}.
{note}
Recipes: `first-recipe.yaml` and `recipe.yaml` beside this file; logs: `first-metrics.jsonl` and `metrics.jsonl`."""


def weights(run: Path) -> Path:
    """The weights of a run, or of a model's folder."""
    return next(f for f in (run / "model" / "model.safetensors", run / "model.safetensors") if f.is_file())


def card(
    run: Path,
    rows: list[dict[str, Any]],
    recipe: dict[str, Any],
    corpora: dict[str, int],
    model: DualEncoder,
    first: Path | None,
    note: str,
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

{how(recipe, first, note)}

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
    parser.add_argument("--first", type=Path, help="the run that this one started from")
    parser.add_argument("--note", default="", help="for the card: where the run departed from its recipe")
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
    corpora = gather_pairs(PretrainRecipe(**recipe)).corpora
    text = card(args.run, rows, recipe, corpora, model, args.first, args.note)
    with atomic_folder(nano_folder()) as folder:  # whoever loads nano meanwhile has the old one or the new one
        shutil.copytree(args.run / "model", folder, dirs_exist_ok=True)
        (folder / "README.md").write_text(text, encoding="utf-8")
        (folder / "zero_shot.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        shutil.copy(args.run / "metrics.jsonl", folder / "metrics.jsonl")
        for key in ("teacher", "nouns", "sentences"):  # names, not the paths of the machine that ran it
            recipe[key] = Path(recipe[key]).name
        if args.first is None:
            recipe["tokenizer"] = "nano"  # learning one anew breaks ties at random; with this one the run repeats exactly
        else:
            recipe["start"] = "runs/nano-first"
            shutil.copy(args.first / "recipe.yaml", folder / "first-recipe.yaml")
            shutil.copy(args.first / "metrics.jsonl", folder / "first-metrics.jsonl")
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(0o644)


if __name__ == "__main__":
    main()
