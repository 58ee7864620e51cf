"""Is `tima plan` right? Measures what it is calibrated by and settings that differ from these, and compares.

    python benchmarks/plan_check.py --measure calibration   # results/plan/calibration.json, by `tima bench`
    python benchmarks/plan_check.py --measure check         # results/plan/NAME.json, one a setting; those that are there stay
    python benchmarks/plan_check.py                         # the tables of docs/plan.md and docs/bench.md, from stored results

Measuring wants a machine that does nothing else.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tima._files import write_json
from tima.bench import BenchSettings, bench

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "plan"
REPEATS, STEPS = 3, 2

CALIBRATION = BenchSettings(
    models=("nano", "random:small", "random:ViT-B-32@224/6"),
    methods=("tecoa", "tima"),
    batch_sizes=(32,),
    repeats=REPEATS,
    steps=STEPS,
)

# name: model, method, batch, attack steps, classes, precision; every one differs from the calibration in at least two
CHECKS: dict[str, tuple[str, str, int, int, int, str]] = {
    "b32-tima": ("random:ViT-B-32", "tima", 16, 2, 100, "bf16"),
    "b32-tecoa-pgd5": ("random:ViT-B-32", "tecoa", 16, 5, 100, "bf16"),
    "b32-320px-tecoa": ("random:ViT-B-32@320/8", "tecoa", 8, 2, 20, "bf16"),
    "b16-112px-fare": ("random:ViT-B-16@112/10", "fare", 16, 2, 100, "bf16"),
    "small-96px-pmg": ("random:small@96/8", "pmg-aft", 24, 3, 50, "bf16"),
    "small-1000-classes": ("random:small", "tima", 64, 2, 1000, "bf16"),
    "nano-tima-128": ("nano", "tima", 128, 3, 300, "bf16"),
    "nano-fare-pgd10": ("nano", "fare", 64, 10, 100, "bf16"),
    "b32-tecoa-fp32": ("random:ViT-B-32", "tecoa", 16, 1, 100, "fp32"),
    "small-96px-tima-fp32": ("random:small@96/8", "tima", 16, 3, 200, "fp32"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=("calibration", "check"))
    parser.add_argument("--only", default="", help="settings, separated by commas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.measure == "calibration":
        write_json(options.results / "calibration.json", bench(CALIBRATION, say))
    elif options.measure == "check":
        wanted = options.only.split(",") if options.only else list(CHECKS)
        for name in wanted:
            path = options.results / f"{name}.json"
            if not path.is_file() or options.only:
                write_json(path, measure(*CHECKS[name]))
    else:
        from _plan_page import write_pages

        write_pages(options.results)


def measure(model: str, method: str, batch: int, attack_steps: int, classes: int, precision: str) -> dict[str, Any]:
    return bench(
        BenchSettings((model,), (method,), (precision,), (batch,), attack_steps, classes, steps=STEPS, repeats=REPEATS), say
    )


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def stored(results: Path) -> dict[str, dict[str, Any]]:
    """Every setting that was measured."""
    return {name: json.loads((results / f"{name}.json").read_text()) for name in CHECKS if (results / f"{name}.json").is_file()}


if __name__ == "__main__":
    main()
