"""The generated parts of docs/plan.md and docs/bench.md, between their markers, from stored results."""

import gc
import json
import re
from pathlib import Path
from typing import Any

import torch
from _memory import MB, give_back_freed, memory

from tima.bench.table import markdown, pass_rows, peak_line, phase_rows, speed_rows
from tima.config import TrainRecipe
from tima.data import ImageSet
from tima.data.order import epoch_order
from tima.plan import PlanRequest, plan
from tima.plan.devices import NODE
from tima.plan.rates import calibrated, trained_steps
from tima.split import split_data

DOCS = Path(__file__).parents[1] / "docs"
GROWTH = (  # name, images, classes, max_classes: what a training set asks for
    ("ImageNet-1k", 1.28e6, 1_000, None),
    ("ImageNet-21k", 14.2e6, 21_841, None),
    ("ImageNet-21k, 1,000 classes a step", 14.2e6, 21_841, 1_000),
    ("400 million images, 1,000 classes a step", 400e6, 100_000, 1_000),
    ("5 billion images, 1,000 classes a step", 5e9, 100_000, 1_000),
)


def write_pages(results: Path) -> None:
    record = json.loads((results / "calibration.json").read_text())
    tables = (markdown(rows(record)) for rows in (speed_rows, phase_rows, pass_rows))
    fill(DOCS / "bench.md", "measured", "\n\n".join([peak_line(record), *tables]))
    fill(DOCS / "plan.md", "check", check_table(record, results))
    fill(DOCS / "plan.md", "growth", growth_table())


def check_table(record: dict[str, Any], results: Path) -> str:
    """Predicted and measured seconds of a step, of every setting that was measured."""
    from plan_check import CHECKS, stored

    rows, ratios = [], []
    for name, found in stored(results).items():
        model, method, batch, attack_steps, classes, precision = CHECKS[name]
        predicted, measured = prediction(record, found, precision)
        ratios.append(predicted / measured)
        job = next(job for job in found["jobs"] if "passes" in job)
        spread = " / ".join(f"{job['seconds'][key]:.3g}" for key in ("min", "median", "max"))
        cells = (model, method, str(batch), str(attack_steps), str(classes), precision, spread, f"{predicted:.3g}")
        rows.append([*cells, f"{ratios[-1]:.2f}"])
    head = [
        "model",
        "method",
        "batch",
        "attack steps",
        "classes",
        "precision",
        "measured s/step, min / median / max",
        "predicted",
    ]
    text = f"{markdown(([*head, 'ratio'], rows))}\n\n{near(ratios)} of {len(rows)} settings within 20 %."
    return "\n\n".join([text, *(other_calibration(path, results) for path in sorted(results.glob("calibration-*.json")))])


def prediction(record: dict[str, Any], found: dict[str, Any], precision: str) -> tuple[float, float]:
    """Seconds of a step as the calibration has it, and as it was measured."""
    ((step, measured),) = trained_steps(found, precision)
    return calibrated(record, precision).seconds(step), measured


def near(ratios: list[float]) -> int:
    return sum(abs(ratio - 1) <= 0.2 for ratio in ratios)


def other_calibration(path: Path, results: Path) -> str:
    """What the same predictions came to with a calibration from another hour: how far the machine itself moves them."""
    from plan_check import CHECKS, stored

    record = json.loads(path.read_text())
    pairs = [prediction(record, found, CHECKS[name][5]) for name, found in stored(results).items()]
    ratios = [predicted / measured for predicted, measured in pairs]
    return (
        f"With a calibration of another hour on the same machine ({record['peak_gflops']['bf16']['best']:,.0f} GFLOP/s bf16): "
        f"{near(ratios)} of {len(ratios)} within 20 %, ratios {min(ratios):.2f} to {max(ratios):.2f}."
    )


def growth_table() -> str:
    """ViT-L/14, TIMA with PGD-10, two epochs, on 8 H100, from `tima plan`."""
    head = [
        "training set",
        "device hours, low / likely / high",
        "texts a step",
        "memory of a device, GB",
        "lists of pictures in a machine's memory, GB",
        "stored pictures, TB",
    ]
    rows, listed = [], NODE * bytes_a_picture()
    for name, images, classes, most in GROWTH:
        found = plan(PlanRequest("ViT-L-14", "tima", images, 2, 10, 1024, classes, most, gpus="8xH100"))
        hours = " / ".join(f"{found['device_hours'][key]:,.0f}" for key in ("low", "likely", "high"))
        memory = sum(found["memory_gb"]["DDP"].values())
        cells = [name, hours, f"{min(classes, most or classes):,}", f"{memory:.0f}", f"{images * listed / 1e9:,.1f}"]
        rows.append([*cells, f"{images * 1.1e5 / 1e12:.2f}"])
    return markdown((head, rows))


def bytes_a_picture(n: int = 1_000_000) -> float:
    """What a process holds of each picture before it has read any: indices and labels of the split, and two orders of an epoch.

    Measured on a set that lies nowhere; what a real one knows besides (paths, places in tar files) is not in it.
    """
    images = ImageSet("none", [f"class {i}" for i in range(1000)], torch.arange(n) % 1000, str, str, image_size=32)
    gc.collect()
    before = resident()
    split = split_data(TrainRecipe(), 32, images)
    orders = [epoch_order(len(split.train), torch.Generator().manual_seed(i)) for i in range(2)]
    gc.collect()
    assert len(orders) == 2
    return (resident() - before) / n


def resident() -> float:
    """Bytes of this process in memory, without what was given back."""
    give_back_freed()
    return memory("VmRSS") * MB


def fill(page: Path, name: str, text: str) -> None:
    """Replace what stands between the page's markers."""
    begin, end = f"<!-- made by benchmarks/plan_check.py: {name} -->", f"<!-- end: {name} -->"
    old = page.read_text(encoding="utf-8")
    new, times = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n\n{text}\n\n{end}", old, flags=re.DOTALL
    )
    if times != 1:
        raise SystemExit(f"{page} should have the markers of '{name}' once.")
    page.write_text(new, encoding="utf-8")
