"""The record of `bench` as tables: for the terminal by rich, for pages as Markdown, from the same rows."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tima.bench.phases import NAMES

Rows = tuple[list[str], list[list[str]]]


def speed_rows(record: dict[str, Any]) -> Rows:
    """Images a second and the share of the measured peak, lowest / median / highest of the repeats."""
    head = ["model", "job", "precision", "batch", "images/s", "GFLOP an image", "% of peak"]
    rows = []
    for job in record["jobs"]:
        share = {key: 100 * value for key, value in job["share_of_peak"].items()}
        flop = sum(job["flop"].values()) / job["batch"] / 1e9
        rows.append(
            [
                job["model"],
                job["job"],
                job["precision"],
                str(job["batch"]),
                _three(job["images_per_s"]),
                f"{flop:.3g}",
                _three(share),
            ]
        )
    return head, rows


def phase_rows(record: dict[str, Any]) -> Rows:
    """Where a training step's time goes, in per cent of the step (sums to 100), medians of the repeats scaled to their sum."""
    head = ["model", "job", "precision", *NAMES]
    rows = []
    for job in trainings(record):
        parts = phase_medians(job)
        whole = sum(parts.values())
        rows.append([job["model"], job["job"], job["precision"], *(f"{100 * parts[name] / whole:.1f}" for name in NAMES)])
    return head, rows


def pass_rows(record: dict[str, Any]) -> Rows:
    """Where each method stands against `2 K + 3 + 1` forward passes an image, counted and timed."""
    head = [
        "model",
        "job",
        "precision",
        "2K + 3 + teacher",
        "counted",
        "operations / forward",
        "time / forward",
        "time / theory",
    ]
    rows = []
    for job in trainings(record):
        theory, counted = theory_passes(job), counted_passes(job)
        forward = forward_seconds(record, job) / job["batch"]
        image = sum(v for k, v in job["flop"].items() if not k.startswith("text")) / job["batch"]
        single = forward_flop(record, job) / job["batch"]
        seconds = job["seconds"]["median"] / job["batch"]
        rows.append(
            [
                *(job["model"], job["job"], job["precision"], f"{theory:g}", f"{counted:g}", f"{image / single:.2f}"),
                *(f"{seconds / forward:.2f}", f"{seconds / forward / theory:.2f}"),
            ]
        )
    return head, rows


def trainings(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [job for job in record["jobs"] if "passes" in job]


def theory_passes(job: dict[str, Any]) -> float:
    """Forward passes' worth of PGD-K fine-tuning with gradients of the pixels alone: 2 K, 3, and 1 where there is a teacher."""
    return 2 * job["attack_steps"] + 3 + (1 if job["passes"].get("teacher forward") else 0)


def counted_passes(job: dict[str, Any]) -> float:
    """The same unit, of what was really run: a backward pass to the pixels counts one, one to the weights two."""
    p = job["passes"]
    single = sum(p.get(name, 0.0) for name in ("attack forward", "attack backward", "outer forward", "teacher forward"))
    return float(single + 2 * p.get("outer backward", 0.0))


def phase_medians(job: dict[str, Any]) -> dict[str, float]:
    """Seconds of each phase: the repeat whose whole step is the median one, so that the parts still sum to a step."""
    whole = [sum(times) for times in zip(*job["phases"].values(), strict=True)]
    middle = sorted(range(len(whole)), key=whole.__getitem__)[(len(whole) - 1) // 2]
    return {name: times[middle] for name, times in job["phases"].items()}


def forward_seconds(record: dict[str, Any], job: dict[str, Any]) -> float:
    """Median time of a forward pass of the same model, precision and batch."""
    return float(_forward(record, job)["seconds"]["median"])


def forward_flop(record: dict[str, Any], job: dict[str, Any]) -> float:
    return float(sum(_forward(record, job)["flop"].values()))


def _forward(record: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    same = ("model", "precision", "batch")
    return next(j for j in record["jobs"] if j["job"] == "forward" and all(j[key] == job[key] for key in same))


def peak_line(record: dict[str, Any]) -> str:
    """The machine and its limits in a sentence."""
    peaks = ", ".join(f"{found['best']:,.0f} GFLOP/s {name}" for name, found in record["peak_gflops"].items())
    where = record["machine"].get("gpu") or f"{record['machine']['cpu']}, {record['machine']['threads']} threads"
    copied = f"copying memory {record['copy_gb_per_s']:.1f} GB/s"
    return f"{where}, torch {record['versions']['torch']}: largest matrix products {peaks}; {copied}."


def markdown(rows: Rows) -> str:
    head, body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in body)])


def show(record: dict[str, Any], console: Console) -> None:
    """The three tables in the terminal."""
    console.print(peak_line(record), highlight=False)
    titles = ("Speed", "Where a training step's time goes, %", "Passes through the image tower, in forward passes an image")
    for name, rows in zip(titles, (speed_rows(record), phase_rows(record), pass_rows(record)), strict=True):
        console.print(_table(name, *rows))


def _table(name: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> Table:
    table = Table(title=name, title_justify="left", box=None)
    for number, column in enumerate(head):
        table.add_column(column, justify="left" if number < 2 else "right")
    for row in body:
        table.add_row(*row)
    return table


def _three(found: dict[str, float]) -> str:
    return " / ".join(f"{found[key]:.3g}" for key in ("min", "median", "max"))
