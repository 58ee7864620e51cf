"""Choose hyper-parameters on validation only: held-out images and held-out classes of the training set.

    python tools/sweep.py tools/sweeps/demo.yaml --out runs/sweep     # safe to stop and run again

A sweep file has `base` (settings all runs share) and `runs` (name -> settings that differ). Each run is an ordinary
`tima train`; the table it prints, and `<out>/sweep.json`, hold the validation of each run's best checkpoint. No evaluation
set is opened.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from tima._files import write_json
from tima.config import TrainRecipe, apply_overrides, validate
from tima.errors import TrainingError
from tima.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="comma-separated names of runs")
    args = parser.parse_args()
    sweep = yaml.safe_load(args.sweep.read_text(encoding="utf-8"))
    wanted = args.only.split(",") if args.only else list(sweep["runs"])
    rows = []
    for name in wanted:
        words = [f"{key}={json.dumps(value)}" for key, value in (sweep["runs"][name] or {}).items()]
        recipe = validate(TrainRecipe, apply_overrides(json.loads(json.dumps(sweep["base"])), words), f"run {name}")
        try:
            train(recipe, args.out / name)
            summary = json.loads((args.out / name / "summary.json").read_text(encoding="utf-8"))
            rows.append({"run": name, "settings": sweep["runs"][name] or {}, **_pick(summary)})
        except TrainingError as error:
            rows.append({"run": name, "settings": sweep["runs"][name] or {}, "failed": str(error)})
        write_json(args.out / "sweep.json", {"base": sweep["base"], "runs": rows})
    show(rows)


def _pick(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: summary[key] for key in ("val", "best_step", "best_score", "seconds")}


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "run", "seen clean", "seen robust", "unseen clean", "unseen robust", "score", "best step", "seconds", box=None
    )
    for row in sorted(rows, key=lambda r: -r.get("best_score", -1)):
        if "failed" in row:
            table.add_row(row["run"], row["failed"][:60])
            continue
        val = [
            f"{100 * row['val'][part][key]:.1f}" for part in ("seen", "unseen") for key in ("clean_accuracy", "robust_accuracy")
        ]
        table.add_row(row["run"], *val, f"{100 * row['best_score']:.1f}", str(row["best_step"]), f"{row['seconds']:.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
