"""Seconds a unit of work costs: assumed of a device, or fitted to what `tima bench` measured.

The fit moves the logarithms of a prior (what the measured peak and copy speed suggest) as far as the measured phases want,
each move with a price, so that one timed model gives a sane answer and several give a sharp one. Source of the form: roofline
models add or take the larger of the times of arithmetic and of traffic (Williams et al. 2009); measured phases here are sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tima.errors import ResultError
from tima.plan.devices import ASSUMED, Device
from tima.plan.work import KINDS, StepWork, of_job, shape_from

PHASES = ("attack forward", "attack backward", "teacher", "outer forward", "outer backward", "text forward", "text backward")
UNITS = ("optimiser", "data", "text", "attack rest", "step")  # a parameter, a pixel, a text, a pixel and attack step, a step
NAMES = (*KINDS, *PHASES, *UNITS)
NOISE, MOVE, SHAPE_MOVE = 0.05, 1.5, 0.35  # of a measured phase; of a rate; of a phase against the others (all logarithms)
KERNELS = 20  # of a layer in one direction


@dataclass(frozen=True)
class Rates:
    """Seconds by `NAMES`: of a unit of each kind of work, factors of the phases, and of the other units.

    Attributes:
        worst: largest ratio of fitted and measured step, either way; None where nothing was fitted.
    """

    values: Mapping[str, float]
    worst: float | None = None

    def phases(self, step: StepWork) -> dict[str, float]:
        """Seconds of each phase of a step."""
        v = self.values
        found = {
            name: v[name] * sum(amount * v[kind] for kind, amount in zip(KINDS, work, strict=True))
            for name, work in step.phases().items()
        }
        for name, amount in units(step).items():
            place = "text forward" if name == "text" else "rest" if name == "step" else name
            if amount:
                found[place] = found.get(place, 0.0) + amount * v[name]
        return found

    def seconds(self, step: StepWork) -> float:
        return sum(self.phases(step).values())


def units(step: StepWork) -> dict[str, float]:
    """How many of the other units a step has."""
    attacked = step.pixels * (step.passes.get("attack backward", 0.0) + 1 if step.attack_steps else 0.0)
    return {"optimiser": step.trained, "data": step.pixels, "text": step.texts, "attack rest": attacked, "step": 1.0}


def assumed(device: Device, precision: str, level: int = 1) -> Rates:
    """Of a device that nobody measured. `level`: 0 pessimistic, 1 likely, 2 optimistic."""
    peak = (device.bf16 if precision == "bf16" else device.fp32) * 1e12
    per_byte = 1 / (device.bandwidth * 1e9 * ASSUMED.bandwidth[level])
    size = 2 if precision == "bf16" else 4
    values = dict.fromkeys(PHASES, 1.0) | {
        "linear": 1 / (peak * ASSUMED.matmul[level]),
        "attention": 1 / (peak * ASSUMED.attention[level]),
        "elements": 2 * size * per_byte,
        "calls": KERNELS * ASSUMED.launch[level],
        "optimiser": 32 * per_byte,
        "data": 16 * per_byte,
        "text": 0.0,
        "attack rest": 40 * per_byte,
        "step": 200 * ASSUMED.launch[level],
    }
    return Rates(values)


def prior(record: Mapping[str, Any], precision: str) -> dict[str, float]:
    """What the measured peak and copy speed suggest before any phase is looked at."""
    peak, per_byte = record["peak_gflops"][precision]["best"] * 1e9, 1 / (record["copy_gb_per_s"] * 1e9)
    values = dict.fromkeys(PHASES, 1.0) | {"linear": 1 / (0.6 * peak), "attention": 1 / (0.2 * peak), "elements": 2 * per_byte}
    return values | {
        "calls": KERNELS * 8e-6,
        "optimiser": 40 * per_byte,
        "data": 5e-9,
        "text": 3e-5,
        "attack rest": 40 * per_byte,
        "step": 1e-3,
    }


def calibrated(record: Mapping[str, Any], precision: str) -> Rates:
    """Fitted to the training steps of a record of `tima bench`.

    Raises:
        ResultError: no record of `tima bench`, or without training steps in this precision.
    """
    found = observations(record, precision)
    start = prior(record, precision)
    base = torch.tensor([start[name] for name in NAMES], dtype=torch.float64)
    spread = torch.tensor([SHAPE_MOVE if name in PHASES else MOVE for name in NAMES], dtype=torch.float64)
    move = torch.zeros(len(NAMES), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [move], max_iter=400, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        rate = base * move.exp()
        misfit = sum(
            (share * (_predicted(rate, step, name) / seconds).log().square() for step, name, seconds, share in found),
            torch.zeros((), dtype=torch.float64),
        )
        value = misfit / NOISE**2 + (move / spread).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    rates = Rates(dict(zip(NAMES, (base * move.detach().exp()).tolist(), strict=True)))
    ratios = [rates.seconds(step) / seconds for step, seconds in trained_steps(record, precision)]
    return Rates(rates.values, max(max(r, 1 / r) for r in ratios))


def trained_steps(record: Mapping[str, Any], precision: str) -> list[tuple[StepWork, float]]:
    """Every training step of a record with its median seconds."""
    check_record(record)
    found = []
    for job in record["jobs"]:
        facts = record["models"][job["model"]]
        if "passes" in job and job["precision"] == precision and facts["shape"] is not None:
            found.append((of_job(job, facts, shape_from(facts)), float(job["seconds"]["median"])))
    if not found:
        raise ResultError(
            f"The calibration holds no training step in {precision} of a model whose sizes are known. "
            f"Make one: tima bench --precision {precision} --out bench.json"
        )
    return found


def observations(record: Mapping[str, Any], precision: str) -> list[tuple[StepWork, str, float, float]]:
    """`(step, phase, seconds, share of its step)` of everything that took at least a thousandth of its step."""
    from tima.bench.table import phase_medians

    steps = iter(trained_steps(record, precision))
    found = []
    for job in record["jobs"]:
        if "passes" in job and job["precision"] == precision and record["models"][job["model"]]["shape"] is not None:
            step, _ = next(steps)
            times = phase_medians(job)
            whole = sum(times.values())
            known = Rates(dict.fromkeys(NAMES, 1.0)).phases(step)
            found += [(step, name, s, s / whole) for name, s in times.items() if s > whole / 1000 and name in known]
    return found


def _predicted(rate: Tensor, step: StepWork, phase: str) -> Tensor:
    index = {name: i for i, name in enumerate(NAMES)}
    value = torch.zeros((), dtype=torch.float64)
    work = step.phases().get(phase)
    if work is not None:
        value = value + rate[index[phase]] * (rate[: len(KINDS)] * torch.tensor(work, dtype=torch.float64)).sum()
    for name, amount in units(step).items():
        place = "text forward" if name == "text" else "rest" if name == "step" else name
        if place == phase and amount:
            value = value + amount * rate[index[name]]
    return value


def check_record(record: Mapping[str, Any]) -> None:
    """Raise `ResultError` unless it is what `tima bench` writes."""
    missing: Sequence[str] = [key for key in ("kind", "peak_gflops", "copy_gb_per_s", "models", "jobs") if key not in record]
    if missing or not str(record["kind"]).startswith("tima bench"):
        raise ResultError("This is no record of tima bench. Make one: tima bench --model random:ViT-B-32 --out bench.json")
