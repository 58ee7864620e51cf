"""Where the numbers come from: protocols, checkpoints, versions, seeds, counts, cost and what was left out."""

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tima.eps import format_eps, parse_eps
from tima.report.comparison import Comparison, protocol_label
from tima.report.runs import Run, Stored
from tima.report.words import duration, percent


@dataclass(frozen=True)
class RunFacts:
    """`facts`: (name, value) pairs; `results`: one row a result, under `RESULT_COLUMNS`; `left_out`: unreadable images."""

    run: Run
    facts: list[tuple[str, str]]
    results: list[list[str]] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)


RESULT_COLUMNS = [
    "data",
    "protocol",
    "n",
    "seed",
    "attack",
    "image forwards",
    "image backwards",
    "time",
    "written (UTC)",
    "state",
]


def protocol_facts(comparison: Comparison) -> list[tuple[str, str]]:
    """The protocol's fields as they were stored with the results."""
    return [(key.replace("_", " "), _text(value)) for key, value in comparison.protocol.items()]


def run_facts(run: Run) -> RunFacts:
    """Everything known about one run."""
    facts = [("folder", run.folder.name), ("started from", run.model)]
    labels = {"method": "method", "data": "training data", "steps": "optimiser steps", "best_step": "kept checkpoint of step"}
    facts += [(label, _text(run.summary[key])) for key, label in labels.items() if run.summary.get(key) is not None]
    if run.summary.get("eps") is not None:
        facts.append(("training eps", format_eps(parse_eps(run.summary["eps"]))))
    if run.summary.get("seconds") is not None:
        facts.append(("training time", duration(float(run.summary["seconds"]))))
    if run.summary.get("seed") is not None:
        facts.append(("training seed", _text(run.summary["seed"])))
    for part, words in (("seen", "validation, known classes"), ("unseen", "validation, held-out classes")):
        score = (run.summary.get("val") or {}).get(part)
        if isinstance(score, dict) and "clean_accuracy" in score:
            clean, attacked = percent(score["clean_accuracy"]), percent(score["robust_accuracy"])
            facts.append((words, f"clean {clean} %, attacked {attacked} %"))
    if run.summary.get("recipe_sha256"):
        facts.append(("recipe SHA-256", str(run.summary["recipe_sha256"])))
    checkpoints = sorted({stored.record.checkpoint_sha256 for stored in run.results})
    facts += [("checkpoint SHA-256", sha) for sha in checkpoints]
    versions = {json.dumps(stored.record.versions, sort_keys=True): stored.record.versions for stored in run.results}
    facts += [("versions", ", ".join(f"{name} {number}" for name, number in found.items())) for found in versions.values()]
    left_out = [(s.record.dataset, bad.where, bad.why) for s in run.results for bad in s.record.quarantine]
    return RunFacts(run, facts, [_result_row(stored) for stored in run.results], left_out)


def _result_row(stored: Stored) -> list[str]:
    record = stored.record
    made = [attack for row in record.robust for attack in row.attacks]
    attacks = list(dict.fromkeys(f"{a.name} ({_text(a.params)})" if a.params else a.name for a in made))
    written = datetime.fromtimestamp(stored.path.stat().st_mtime, tz=UTC)
    return [
        record.dataset,
        protocol_label(record.protocol),
        f"{record.n:,}",
        str(record.seed),
        " + ".join(attacks) or record.attack,
        f"{sum(row.forwards for row in record.robust):,}",
        f"{sum(row.backwards for row in record.robust):,}",
        duration(record.wall_time_s),
        f"{written:%Y-%m-%d %H:%M}",
        "complete" if record.complete else "unfinished",
    ]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    return "all" if value is None else str(value)
