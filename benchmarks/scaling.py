"""How time and memory grow: with batch, image size, classes, attack steps, processes and images of an evaluation.

    OMP_NUM_THREADS=2 python benchmarks/scaling.py            # -> results/scaling/*.json, docs/scaling.md and its figure
    python benchmarks/scaling.py --curves "batch;image size"  # some curves; the page is made from all that are there
    python benchmarks/scaling.py --page-only

Every point is a fresh process (`_scaling_points.py`). A curve's slope is the least-squares line through the logarithms of its
last points, where fixed costs no longer hide what grows. `class_sample.py` measures how exact a sample of the classes is.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from _machine import machine
from _scaling_page import write_page

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "scaling", HERE.parent / "docs" / "scaling.md"
CLASSES = (10, 30, 100, 300, 1000, 3000, 10000, 20000)


def grid() -> dict[str, list[dict[str, Any]]]:
    """Curve -> its points, as keywords of `_scaling_points.KINDS`; `x` is what grows."""

    def curve(kind: str, key: str, values: tuple[int, ...], **fixed: Any) -> list[dict[str, Any]]:
        return [{"x": v, "kind": kind, key: v, **fixed} for v in values]

    many = {v: {"repeats": 1} for v in (3000, 10000, 20000)}

    def by_classes(kind: str, **fixed: Any) -> list[dict[str, Any]]:
        return [point | many.get(point["x"], {}) for point in curve(kind, "classes", CLASSES, **fixed)]

    large = (300, 1000, 3000, 10000, 20000)
    return {
        "batch: tima": curve("step", "batch", (8, 16, 32, 64, 128, 256)),
        "batch: tecoa": curve("step", "batch", (8, 16, 32, 64, 128, 256), method="tecoa"),
        "image size: tima": curve("step", "image_size", (32, 48, 64, 96, 128, 192), batch=16),
        "attack steps: tima": curve("step", "steps", (1, 2, 4, 8, 16)),
        "classes: tima": by_classes("step", batch=32),
        "classes: tima, max_classes 512": by_classes("step", batch=32, max_classes=512),
        "classes: tecoa": by_classes("step", batch=32, method="tecoa"),
        **{
            f"term: {name}": curve("term", "classes", large, name=name)
            for name in ("mhe", "mhe, 4096 drawn", "consistency", "margin", "limits", "iakd")
        },
        "evaluation, texts": curve("texts", "classes", CLASSES),
        "evaluation, classes": curve("evaluation", "classes", CLASSES, images=100),
        "evaluation, images": curve("evaluation", "images", (250, 500, 1000, 2000, 4000), classes=10),
        **{
            f"processes: {method}": [{"x": n, "kind": "processes", "processes": n, "method": method} for n in (1, 2)]
            for method in ("tima", "tecoa")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", default="", help="beginnings of names, separated by ;")
    parser.add_argument("--upto", type=float, default=math.inf, help="largest x, to try it")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    wanted = tuple(options.curves.split(";")) if options.curves else ("",)
    for name, points in grid().items():
        if options.page_only or not name.startswith(wanted):
            continue
        found = []
        for point in points:
            if point["x"] > options.upto:
                continue
            outcome = measure_processes(point["processes"], point["method"]) if point["kind"] == "processes" else measure(point)
            found.append({"x": point["x"], **outcome})
            print(name, found[-1], flush=True)
        file = name.replace(":", "").replace(",", "").replace(" ", "-")
        record = {"curve": name, "settings": points[0], "points": found, "machine": machine()}
        (options.results / f"{file}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_page(options.results, options.page)


def measure(point: dict[str, Any]) -> dict[str, Any]:
    """The point's process; a failure is an outcome, too."""
    asked = {key: value for key, value in point.items() if key != "x"}
    command = [sys.executable, str(HERE / "_scaling_points.py"), json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        return {"failed": f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return found


def measure_processes(count: int, method: str) -> dict[str, Any]:
    """`tima train` in so many processes of one thread each, the same global batch: median seconds of a step."""
    words = [
        f"method={method}",
        "steps=40",
        "batch_size=64",
        "val_every=40",
        "val_samples=8",
        "val_attack_steps=1",
        "save_every=40",
        "augment=none",
    ]
    with tempfile.TemporaryDirectory() as folder:
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={count}", "--master_port=29871"] if count > 1 else []
        out = Path(folder) / "run"
        command = [sys.executable, *launch, "-m", "tima", "train", "--out", str(out), *words]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            return {"failed": f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rates = sorted(line["images_per_s"] for line in lines if line["kind"] == "train" and line["step"] > 10)
    return {"seconds": 64 / rates[len(rates) // 2], "repeats": len(rates)}


if __name__ == "__main__":
    main()
