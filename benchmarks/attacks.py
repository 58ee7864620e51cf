"""How fast attacks are, ours and others', in one run: same model, images, steps and judge, repeats interleaved.

    python benchmarks/attacks.py --model nano --repeats 5
    python benchmarks/attacks.py --model vit-b-32 --samples 32 --repeats 5
    python benchmarks/attacks.py --model nano --autoattack --samples 200 --repeats 1

Machines are noisy, so every repeat runs every candidate once, and ratios are formed within a repeat. Times are wall-clock,
without the first (warming, compiling) run. Shapes: `N` images, `C` channels or classes, `H, W` pixels.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from _counted import Counted
from _machine import processor
from _models import Subject, conv_subject, random_vit_b_32, zero_shot_subject
from _peers import RUNS, version
from _profile import time_shares
from _speed_page import page

from tima.attacks import CountedModel, autoattack, pgd
from tima.bench.peak import matmul_peak
from tima.models.fast import attack_model

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "speed", HERE.parent / "docs" / "speed.md"
Candidate = Callable[[int], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="run or model folder, nano, conv, or vit-b-32 (random weights, 224 px)")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eps", type=float, default=4, help="in 1/255")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--autoattack", action="store_true", help="AutoAttack standard in place of PGD")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--only", default="", help="candidates, separated by ;")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--page-only", action="store_true")
    parser.add_argument("--profile", action="store_true", help="add to what was measured where the time goes; measures nothing")
    options = parser.parse_args()
    if not options.page_only:
        subject = find_subject(options.model, options.data, options.samples)
        options.results.mkdir(parents=True, exist_ok=True)
        kind = "autoattack" if options.autoattack else "pgd"
        file = options.results / f"{subject.name}.{kind}.{options.eps:g}.json"
        if options.profile:
            record = json.loads(file.read_text(encoding="utf-8"))
            record["profile"] = {name: time_shares(run) for name, run in candidates(subject, options).items()}
        else:
            record = measure(subject, options)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    agreement = (HERE / "results" / "agreement").glob("*.json")
    text = page(
        *([json.loads(file.read_text()) for file in sorted(found)] for found in (options.results.glob("*.json"), agreement))
    )
    options.page.write_text(text, encoding="utf-8")
    print(text)


def find_subject(model: str, data: str, samples: int) -> Subject:
    if model == "vit-b-32":
        return random_vit_b_32(samples)
    if model == "conv":
        return conv_subject(HERE.parent / "runs" / "agreement-conv", samples, data=data)
    return zero_shot_subject(model, data, samples)


def candidates(subject: Subject, options: argparse.Namespace) -> dict[str, Candidate]:
    """Name -> a run with a seed, which returns time, counts and what was left standing."""
    eps, batch, steps = options.eps / 255, options.batch, options.steps
    notes: list[str] = []

    def timed(attack: Callable[[Any, int], Tensor], counted: Any) -> Candidate:
        def run(seed: int) -> dict[str, Any]:
            counted.forwards = counted.backwards = 0
            started, cpu = time.perf_counter(), time.process_time()
            adv_NCHW = attack(counted, seed)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            forwards, backwards = counted.forwards, counted.backwards
            return {
                **{"seconds": seconds, "cpu_seconds": cpu, "forwards": forwards, "backwards": backwards},
                "standing": standing(subject, adv_NCHW.detach().clamp(0, 1), eps, batch),
            }

        return run

    def ours(precision: str, compile: bool, stop: bool, library: bool = False) -> Candidate:
        model = subject.model if library else attack_model(subject.model, precision, compile)  # type: ignore[arg-type]
        notes.extend(() if library else model.notes)  # type: ignore[union-attr, arg-type]

        def attack(counted: Any, seed: int) -> Tensor:
            generators = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in range(len(subject.label_N))]
            words: dict[str, Any] = {"generator": generators, "batch_size": batch}
            if options.autoattack:
                return autoattack(counted, subject.image_NCHW, subject.label_N, eps, **words)
            words |= {"steps": steps, "stop_when_broken": stop, "keep_best": stop}
            return pgd(counted, subject.image_NCHW, subject.label_N, eps, **words)

        return timed(attack, CountedModel(model))

    def theirs(attack_name: str, library: str) -> Candidate:
        run, budget = RUNS[attack_name][library], {} if options.autoattack else {"steps": steps}
        counted = Counted(subject.model).eval()
        return timed(lambda m, seed: run(m, subject.image_NCHW, subject.label_N, eps, budget, seed, batch), counted)

    zero_shot = hasattr(subject.model, "text_CD")
    table: dict[str, Callable[[], Candidate]] = {}
    if options.autoattack:
        table["pyautoattack"] = lambda: theirs("standard", "pyautoattack")
    else:
        table["plain loop"] = lambda: timed(
            lambda m, seed: plain_loop(m, subject, eps, steps, seed, batch), Counted(subject.model)
        )
        for library in ("torchattacks", "foolbox", "art"):
            table[library] = lambda library=library: theirs("pgd", library)  # type: ignore[misc]
    table["tima, library model, fp32"] = lambda: ours("fp32", False, True, library=True)
    if zero_shot:
        table["tima, fp32"] = lambda: ours("fp32", False, True)
        table["tima, bf16"] = lambda: ours("bf16", False, True)
        if options.compile:
            table["tima, bf16 compiled"] = lambda: ours("bf16", True, True)
        if not options.autoattack:
            table["tima, fp32, every image to the end"] = lambda: ours("fp32", False, False)
            table["tima, bf16, every image to the end"] = lambda: ours("bf16", False, False)
            if options.compile:
                table["tima, bf16 compiled, every image to the end"] = lambda: ours("bf16", True, False)
    wanted = options.only.split(";") if options.only else list(table)
    return {name: table[name]() for name in wanted}


def measure(subject: Subject, options: argparse.Namespace) -> dict[str, Any]:
    """All candidates, repeats interleaved, and what the machine can do."""
    runs = candidates(subject, options)
    outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    failed: dict[str, str] = {}
    for repeat in range(-1 if options.repeats > 1 else 0, options.repeats):
        for name, run in runs.items():
            if name in failed:
                continue
            try:
                outcome = run(max(repeat, 0))
            except ImportError as error:
                failed[name] = f"not installed: {error}"
                continue
            print(
                f"repeat {repeat} {name}: {outcome['seconds']:.1f} s, {outcome['standing']} standing",
                file=sys.stderr,
                flush=True,
            )
            if repeat >= 0:
                outcomes[name].append(outcome)
    libraries = [name for name in ("torchattacks", "foolbox", "art", "pyautoattack") if name in runs and name not in failed]
    return {
        "model": subject.name,
        "fingerprint": subject.fingerprint,
        "attack": "autoattack standard" if options.autoattack else f"pgd, {options.steps} steps",
        "eps": options.eps / 255,
        "n": subject.n,
        "attacked": len(subject.label_N),
        "batch": options.batch,
        "outcomes": {name: found for name, found in outcomes.items() if found},
        "failed": failed,
        "gflop_forward": {"library": flops(subject, False), "lean": flops(subject, True)},
        "peak_gflops": {kind: matmul_peak(kind)["best"] for kind in ("fp32", "bf16")},
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": processor(),
        "versions": {name: version(name) for name in libraries}
        | {"torch": torch.__version__, "python": platform.python_version()},
    }


def plain_loop(model: nn.Module, subject: Subject, eps: float, steps: int, seed: int, batch: int) -> Tensor:
    """PGD as one would write it on a page."""
    torch.manual_seed(seed)
    parts = []
    for x, y in zip(subject.image_NCHW.split(batch), subject.label_N.split(batch), strict=True):
        adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
        for _ in range(steps):
            adv.requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
            adv = adv.detach() + 2.5 * eps / steps * gradient.sign()
            adv = torch.max(torch.min(adv, x + eps), x - eps).clamp(0, 1)
        parts.append(adv)
    return torch.cat(parts)


def standing(subject: Subject, adv_NCHW: Tensor, eps: float, batch: int) -> int:
    """Images that the fp32 model gets right, or that lie too far away to count."""
    with torch.no_grad():
        right_N = torch.cat([subject.model(x).argmax(1) for x in adv_NCHW.split(batch)]) == subject.label_N
    too_far_N = (adv_NCHW - subject.image_NCHW).flatten(1).abs().amax(1) > eps + 1e-5
    return int((right_N | too_far_N).sum())


def flops(subject: Subject, lean: bool) -> float:
    """GFLOP of matrix products of one image's forward pass; a backward to the pixels takes about as many."""
    from torch.utils.flop_counter import FlopCounterMode

    if lean and not hasattr(subject.model, "text_CD"):
        return 0.0
    model = attack_model(subject.model) if lean else subject.model  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(subject.image_NCHW[:1])
    return float(counter.get_total_flops() / 1e9)


if __name__ == "__main__":
    main()
