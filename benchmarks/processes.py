"""Do several processes learn what one does? Weights of every method after some steps over 1, 2 and 3 gloo processes on the CPU.

    python benchmarks/processes.py                             # some minutes -> results/processes.json, docs/distributed.md
    python benchmarks/processes.py --steps 2 --methods tima    # to try it; writes no page

fp32, SGD (Adam makes full steps out of gradients that are rounding alone; one row shows it), nano on its training set, a batch
that three processes cannot share evenly.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _machine import machine
from safetensors.torch import load_file

from tima.config import TrainRecipe, train_recipe
from tima.methods import METHODS
from tima.train import train

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "distributed.md"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
SETTINGS: dict[str, Any] = {
    **dict(model="nano", data="pictures", batch_size=10, lr=0.02, optimizer="sgd", precision="fp32", warmup=0.0),
    **dict(val_samples=20, val_attack_steps=1, held_out_classes=0.1),
}
OTHERS: dict[str, dict[str, Any]] = {
    "tima, lora": {"method": "tima", "lora": {"rank": 4}},
    "tecoa, prompt": {"method": "tecoa", "prompt": {"size": 4}},
    "tecoa, awp": {"method": "tecoa", "awp": {"gamma": 0.005}},
    "tecoa, n-fgsm": {"method": "tecoa", "attack": {"kind": "n-fgsm"}},
    "tecoa, fgsm, align": {"method": "tecoa", "attack": {"kind": "fgsm", "align": 0.2}},
    "trades, two parts": {"method": "trades", "accumulate": 2},
    "tima, 32 classes of all": {"method": "tima", "max_classes": 32},
    "tima, AdamW at 1e-4": {"method": "tima", "optimizer": "adamw", "lr": 1e-4},
}


def recipes(methods: list[str] | None, steps: int) -> dict[str, TrainRecipe]:
    rows = {name: {"method": name} for name in METHODS if name != "zero-shot"} | OTHERS
    chosen = {name: row for name, row in rows.items() if methods is None or name in methods}
    every = {"steps": steps, "val_every": steps, "save_every": steps}
    return {name: train_recipe(None, **{**SETTINGS, **every, **row}) for name, row in chosen.items()}


def work(out: Path, methods: list[str] | None, steps: int, shard: bool) -> None:
    torch.set_num_threads(1)
    for name, recipe in recipes(methods, steps).items():
        if shard and (recipe.lora or recipe.attack.align > 0):
            continue
        train(recipe, out / name, progress=False, shard=shard)


def launch(size: int, out: Path, words: list[str], shard: bool) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    command = [*launcher, __file__, "--worker", str(out), *words, *(["--shard"] if shard else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, check=True, env=environment)


def apart(one: Path, other: Path) -> float:
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def table(record: dict[str, Any]) -> str:
    head = "| method | moved | 2 processes | 3 processes | 2, weights spread |\n|---|---|---|---|---|\n"
    lines = []
    for name, row in record["rows"].items():
        cells = [f"{row[key]:.1e}" if row[key] is not None else "refused" for key in ("moved", "2", "3", "spread")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return head + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--worker", type=Path)
    parser.add_argument("--shard", action="store_true")
    given = parser.parse_args()
    if given.worker is not None:
        work(given.worker, given.methods, given.steps, given.shard)
        return
    words = ["--steps", str(given.steps), *(["--methods", *given.methods] if given.methods else [])]
    with tempfile.TemporaryDirectory() as folder:
        work(Path(folder) / "1", given.methods, given.steps, shard=False)
        for size, shard in ((2, False), (3, False), (2, True)):
            launch(size, Path(folder) / ("spread" if shard else str(size)), words, shard)
        from tima.models import load_model

        load_model("nano").save_pretrained(Path(folder) / "start" / "model")
        rows = {}
        for name in recipes(given.methods, given.steps):
            one = Path(folder) / "1" / name
            found = {key: Path(folder) / key / name for key in ("2", "3", "spread")}
            rows[name] = {"moved": apart(Path(folder) / "start", one)}
            rows[name] |= {key: apart(one, run) if run.is_dir() else None for key, run in found.items()}
    record = {"steps": given.steps, "settings": SETTINGS, "machine": machine(), "rows": rows}
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "processes.json").write_text(json.dumps(record, indent=2) + "\n")
    print(table(record))
    if given.methods is None and given.results == RESULTS:
        text = PAGE.read_text()
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        PAGE.write_text(f"{before}\n\n{table(record)}\n\n{after}")


if __name__ == "__main__":
    main()
