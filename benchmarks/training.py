"""How fast adversarial training is on this CPU, against other libraries and the field's loop, in one run.

    python benchmarks/training.py                           # some ten minutes on two cores; writes docs/speed-training.md
    python benchmarks/training.py --model random:tiny --batch 4 --repeats 2 --no-compile --results /tmp/x --page /tmp/x.md

Every repeat runs every candidate once, one after the other; ratios are formed within a repeat. The first runs warm up.
Parts are stored one by one and again after every repeat, so what was measured stays when a run is stopped. Folders beside them
are other machines' results; the page shows their targets, too.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from _machine import machine
from _training_jobs import Job, attack_jobs, our_step, plain_tecoa
from _training_page import page
from _words import class_names

from tima.bench.geometries import PREFIX, write_random
from tima.bench.peak import matmul_peak
from tima.bench.towers import shape_of
from tima.models import DualEncoder, ZeroShotClassifier, load_model
from tima.models.fast import attack_model

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "training", HERE.parent / "docs" / "speed-training.md"
PARTS = ("pgd", "tecoa", "tima", "attention")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="random:ViT-B-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000, help="of the TIMA part")
    parser.add_argument("--sample", type=int, default=128, help="max_classes of the sampled TIMA step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--page-only", action="store_true")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    if not options.page_only:
        measure(options)
    records = {part: json.loads(file.read_text()) for part in PARTS if (file := options.results / f"{part}.json").is_file()}
    folders = sorted(folder for folder in options.results.iterdir() if folder.is_dir())
    elsewhere = [
        {part: json.loads((f / f"{part}.json").read_text()) for part in PARTS if (f / f"{part}.json").is_file()}
        for f in folders
    ]
    accuracy = options.results / "accuracy.json"
    found = json.loads(accuracy.read_text()) if accuracy.is_file() else None
    options.page.write_text(page(records, elsewhere, found), encoding="utf-8")


def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = str(write_random(options.model, Path(folder) / "m")) if options.model.startswith(PREFIX) else options.model
        student, teacher = load_model(source), load_model(source).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    side = student.image_size
    image_BCHW = torch.rand(options.batch, 3, side, side, generator=generator)
    label_B = torch.randint(10, (options.batch,), generator=generator)
    about = {
        "model": options.model,
        "batch": options.batch,
        "machine": machine(),
        "peak_gflops": {kind: matmul_peak(kind)["best"] for kind in ("fp32", "bf16")},
        "gflop": operations(student),
    }
    for part in options.part:
        record = about | PART[part](options, student, teacher, image_BCHW, label_B)
        if part != "attention":
            jobs = record.pop("jobs")
            record["seconds"] = {}
            repeat(jobs, options.repeats, record, options.results / f"{part}.json")
            record["profile"] = profile_of(jobs[record.pop("profiled")])
        write(record, options.results / f"{part}.json")


def operations(model: DualEncoder) -> dict[str, float]:
    """GFLOP an image of one attack step through the lean tower, and of its forward pass."""
    shape = shape_of(model)
    assert shape is not None
    tower = replace(shape.image, last_token_only=True)
    return {"attack step": (tower.forward + tower.backward_input) / 1e9, "forward": tower.forward / 1e9}


def repeat(jobs: dict[str, Job], repeats: int, record: dict[str, Any], file: Path) -> None:
    """Time all jobs, interleaved; the first round does not count."""
    failed: dict[str, str] = record.setdefault("failed", {})
    for number in range(-1, repeats):
        for name, job in jobs.items():
            if name in failed:
                continue
            getattr(job, "prepare", lambda: None)()
            began = time.perf_counter()
            try:
                job()
            except ImportError as error:
                failed[name] = f"not installed: {error}"
                continue
            seconds = time.perf_counter() - began
            print(f"{number} {name}: {seconds:.2f} s", file=sys.stderr, flush=True)
            if number >= 0:
                record["seconds"].setdefault(name, []).append(seconds)
            else:
                record.setdefault("first", {})[name] = seconds
        notes = {name: list(state["notes"]) for name, job in jobs.items() if (state := getattr(job, "state", {})).get("notes")}
        record["notes"] = notes
        for kind, peak in record["peak_gflops"].items():  # the machine's moods: the share must not be of a slow moment's peak
            record["peak_gflops"][kind] = max(peak, matmul_peak(kind)["best"])  # type: ignore[arg-type]
        if number >= 0:
            write({k: v for k, v in record.items() if k != "profiled"}, file)


def profile_of(job: Job, rows: int = 12) -> list[dict[str, Any]]:
    """The operators that take most of the time, with their share."""
    from torch.profiler import ProfilerActivity, profile

    getattr(job, "prepare", lambda: None)()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        job()
    listed = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in listed)
    return [{"operator": e.key, "calls": e.count, "share": e.self_cpu_time_total / total} for e in listed[:rows]]


def pgd_part(options: argparse.Namespace, student: Any, teacher: Any, image: Any, label: Any) -> dict[str, Any]:
    classifier, steps = ZeroShotClassifier(student, class_names(10)), 1
    jobs = attack_jobs(classifier, image, label, steps, options.compile)
    found = attack_model(classifier, "bf16")
    x = image.clone().requires_grad_()
    gradients = [torch.autograd.grad(torch.nn.functional.cross_entropy(f(x), label), x)[0] for f in (classifier, found)]
    signs = (gradients[0].sign() == gradients[1].sign()).float().mean()
    return {"jobs": jobs, "steps": steps, "profiled": "tima", "sign_agreement": float(signs)}


def tecoa_part(options: argparse.Namespace, student: Any, teacher: Any, image: Any, label: Any) -> dict[str, Any]:
    names, rest = class_names(10), (image, label)
    plain = load_copy(student)
    jobs: dict[str, Job] = {
        "plain fp32 loop, autograd.grad": plain_tecoa(plain, names, *rest, into_weights=False),
        "plain fp32 loop, loss.backward": plain_tecoa(plain, names, *rest, into_weights=True),
    }
    for compile in (False, True) if options.compile else (False,):
        for keep_best in (False, True) if compile == options.compile else (False,):
            name = "tima" + (" compiled" if compile else "") + ("" if not keep_best else ", best iterate")
            words = {"method": "tecoa", "compile": compile, "keep_best": keep_best}
            jobs[name] = our_step(student, None, names, *rest, **words)  # type: ignore[arg-type]
    return {"jobs": jobs, "profiled": "tima"}


def tima_part(options: argparse.Namespace, student: Any, teacher: Any, image: Any, label: Any) -> dict[str, Any]:
    names = class_names(options.classes)
    kinds: dict[str, dict[str, Any]] = {
        "tecoa": {"method": "tecoa"},
        "tima, all classes": {"method": "tima"},
        "tima, projection": {"method": "tima", "text_tower": "projection"},
        f"tima, {options.sample} classes a step": {"method": "tima", "max_classes": options.sample},
    }
    # TeCoA never asks for a teacher; the image tower is compiled in neither: the ratio is the same question then
    jobs: dict[str, Job] = {
        name: our_step(student, teacher if "tima" in name else None, names, image, label, compile=False, **words)
        for name, words in kinds.items()
    }
    return {"jobs": jobs, "classes": options.classes, "sample": options.sample, "profiled": "tima, all classes"}


def attention_part(options: argparse.Namespace, student: Any, teacher: Any, image: Any, label: Any) -> dict[str, Any]:
    """Forward and backward of one attention layer, fused and plain: what the rule in `lean_blocks.py` rests on."""
    from tima.models.lean_blocks import attention

    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for tokens in (50, 197, 577):
            q, k, v = (torch.randn(4, 12, tokens, 64, dtype=dtype).requires_grad_() for _ in range(3))
            fused: Callable[..., Any] = torch.nn.functional.scaled_dot_product_attention
            kinds = {"plain": lambda: attention(q, k, v), "fused": lambda: fused(q, k, v, scale=1.0)}  # noqa: B023
            row: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "tokens": tokens}
            for name, run in kinds.items():
                times = []
                for _ in range(4):
                    began = time.perf_counter()
                    torch.autograd.grad(run().sum(), (q, k, v))
                    times.append(time.perf_counter() - began)
                row[name] = min(times)
            rows.append(row)
    return {"rows": rows}


def load_copy(model: DualEncoder) -> DualEncoder:
    import copy

    return copy.deepcopy(model)


def write(record: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


PART = {"pgd": pgd_part, "tecoa": tecoa_part, "tima": tima_part, "attention": attention_part}

if __name__ == "__main__":
    main()
