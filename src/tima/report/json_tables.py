"""The report's tables as one JSON text for other programs: accuracies with intervals and health, and paired differences."""

import json
from typing import Any

from tima.report.comparison import Comparison
from tima.report.differences import difference_records
from tima.report.paired import paired
from tima.report.pareto import fronts_of


def json_tables(comparisons: list[Comparison]) -> str:
    """Fractions in [0, 1], eps in pixel units, 0 is clean; missing numbers are null and `status` says why."""
    return json.dumps({"schema": "tima-report/1", "protocols": [_protocol(c) for c in comparisons]}, indent=2) + "\n"


def _protocol(comparison: Comparison) -> dict[str, Any]:
    accuracies = []
    for block in comparison.blocks:
        for run, row in zip(comparison.runs, block.cells, strict=True):
            for eps, cell in zip([0.0, *comparison.eps], row, strict=True):
                known = cell.value is not None
                accuracies.append(
                    {
                        "data": block.title,
                        "average_of": list(block.average_of) or None,
                        "train_domain": block.train_domain,
                        "model": run.name,
                        "run": run.folder.name,
                        "eps": eps,
                        "accuracy": cell.value,
                        "ci95": [cell.low, cell.high] if known else None,
                        "correct": cell.correct if known else None,
                        "n": cell.n if known else None,
                        "health": None if cell.health is None else cell.health.model_dump(mode="json"),
                        "status": cell.note or "measured",
                    }
                )
    found = paired(comparison)
    return {
        "protocol": comparison.protocol,
        "accuracies": accuracies,
        "fronts": _fronts(comparison),
        "differences": difference_records(comparison, found),
        "not_compared": found.skipped,
    }


def _fronts(comparison: Comparison) -> list[dict[str, Any]]:
    """For each block and eps the runs that no other beats on clean and robust accuracy together."""
    return [
        {"data": block.title, "eps": eps, "runs": [comparison.runs[row].folder.name for row in rows]}
        for block in comparison.blocks
        for eps, rows in zip(comparison.eps, fronts_of(block), strict=True)
    ]
