"""Every figure of `benchmarks/` and every page made of them, one after the other, with one command.

    python benchmarks/everything.py --list               # what there is, and what each makes
    python benchmarks/everything.py                      # hours on two cores; on a machine that does nothing else
    python benchmarks/everything.py --only training,processes
    python benchmarks/everything.py --pages              # measures nothing: the pages from the stored results

A part that fails is named at the end and stops nothing; its output is in `runs/benchmarks/NAME.log`. Most parts keep what they
have measured and go on from there. The peers must be installed (README.md here); without them their candidates are missing.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = "runs/demo/tima"


@dataclass(frozen=True)
class Part:
    """Commands, without the interpreter; those that only write pages; what comes out."""

    commands: tuple[str, ...]
    pages: tuple[str, ...]
    makes: str


PARTS = {
    "demo": Part(("-m tima demo",), (), "the models that others attack, in runs/demo"),
    "training": Part(("benchmarks/training.py",), ("benchmarks/training.py --page-only",), "docs/speed-training.md"),
    "accuracy": Part(
        ("benchmarks/fast_path_accuracy.py", "benchmarks/training.py --page-only"), (), "its table of fast training's accuracy"
    ),
    "attacks": Part(
        (
            f"benchmarks/attacks.py --model {DEMO} --samples 200 --batch 50 --steps 10 --eps 2",
            f"benchmarks/attacks.py --model {DEMO} --samples 200 --batch 50 --steps 10 --eps 4",
            f"benchmarks/attacks.py --model {DEMO} --autoattack --samples 100 --batch 50 --repeats 3 --no-compile",
        ),
        ("benchmarks/attacks.py --page-only",),
        "docs/speed.md",
    ),
    "agreement": Part(
        (f"benchmarks/agreement.py --model {DEMO}",), ("benchmarks/agreement.py --page-only",), "docs/agreement.md"
    ),
    "protocols": Part(
        (f'benchmarks/protocols.py --model {DEMO} --about "the demo\'s TIMA model"',),
        ("benchmarks/protocols.py --page-only",),
        "the table of three protocols in docs/evaluation.md",
    ),
    "processes": Part(("benchmarks/processes.py",), (), "the table in docs/distributed.md"),
    "plan": Part(
        ("benchmarks/plan_check.py --measure calibration", "benchmarks/plan_check.py --measure check"),
        ("benchmarks/plan_check.py",),
        "the tables of docs/plan.md and docs/bench.md",
    ),
    "scaling": Part(
        ("benchmarks/class_sample.py", "benchmarks/scaling.py"), ("benchmarks/scaling.py --page-only",), "docs/scaling.md"
    ),
    "serve": Part(("benchmarks/serve_load.py",), ("benchmarks/serve_load.py --table",), "the table in docs/serve.md"),
    "corruptions": Part(("benchmarks/corruptions.py",), (), "a table for docs/probes.md, in its log"),
    "health": Part(("tools/health_table.py",), (), "docs/health_table.md"),
    "gpu": Part(("benchmarks/gpu.py",), (), "results/training/gpu.json; needs a CUDA GPU"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--pages", action="store_true", help="only write the pages, from stored results")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--logs", type=Path, default=ROOT / "runs" / "benchmarks")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}. There are {', '.join(PARTS)}.")
    if options.list:
        for name in chosen:
            print(f"{name}: {PARTS[name].makes}", *(f"    python {command}" for command in PARTS[name].commands), sep="\n")
        return
    failed = [name for name in chosen if not run(name, options.pages, options.logs)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see {options.logs}")


def run(name: str, pages_only: bool, logs: Path) -> bool:
    """One part with its pages. Returns whether every command ended well."""
    part = PARTS[name]
    commands = [*(() if pages_only else part.commands), *part.pages]
    logs.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (logs / f"{name}.log").open("w", encoding="utf-8") as log:
        for command in commands:
            print(f"{name}: python {command}", flush=True)
            done = subprocess.run(f'"{sys.executable}" {command}', shell=True, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            if done.returncode:
                print(f"{name}: ended with {done.returncode}, see {log.name}", flush=True)
                return False
    if commands:
        print(f"{name}: {part.makes}, {time.monotonic() - began:,.0f} s", flush=True)
    return True


if __name__ == "__main__":
    main()
