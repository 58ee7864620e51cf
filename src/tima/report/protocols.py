"""The same weights under several protocols: how far a robust accuracy moves when only the judging changes.

A row is a protocol here, not a run. Rows of one table share the weights, the data set and the norm, nothing else, so no row is
called best, and no average is taken over sets that a protocol lacks.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tima.errors import ResultError
from tima.report.averages import average_block
from tima.report.blocks import data_set_block
from tima.report.comparison import Block, Comparison, protocol_key, size_text
from tima.report.runs import Run, Stored, read_runs

if TYPE_CHECKING:
    from tima.results import Result


def compare_protocols(run_folder: str | Path) -> list[Comparison]:
    """One `Comparison` for each norm, its `runs` being the protocols found in the run's results.

    Raises:
        ResultError: no results, results of different weights, or of fewer than two protocols.
    """
    (run,) = read_runs([run_folder])
    if not run.results:
        raise ResultError(f"{run_folder} holds no results. Make some: tima evaluate --model {run_folder} --protocol standard")
    hashes = sorted({stored.record.checkpoint_sha256 for stored in run.results})
    if len(hashes) > 1:
        each = "\n".join(f"  {stored.path.name}: {stored.record.checkpoint_sha256[:12]}" for stored in run.results)
        raise ResultError(
            f"The results in {run_folder} are of different weights, so their protocols cannot be compared:\n{each}\n"
            "Keep the results of one checkpoint there, or evaluate again."
        )
    by_protocol: dict[tuple[str, str], list[Stored]] = {}
    for stored in run.results:
        by_protocol.setdefault(protocol_key(stored.record.protocol), []).append(stored)
    if len(by_protocol) < 2:
        raise ResultError(
            f"{run_folder} was evaluated under one protocol only, {next(iter(by_protocol))[0]}. "
            f"Add another: tima evaluate --model {run_folder} --protocol NAME (`tima protocols` lists them)"
        )
    labels = [label for label, _ in by_protocol]
    rows = [
        replace(run, name=label if labels.count(label) == 1 else f"{label} ({sha[:8]})", series=number, results=results)
        for number, ((label, sha), results) in enumerate(by_protocol.items(), start=1)
    ]
    norms = sorted({stored.record.norm for stored in run.results})
    return [_under_norm(norm, [row for row in rows if row.results[0].record.norm == norm]) for norm in norms]


def _under_norm(norm: str, rows: list[Run]) -> Comparison:
    stored = [result for row in rows for result in row.results]
    eps = sorted({size_text(entry.eps, norm): entry.eps for s in stored for entry in s.record.robust}.values())
    names = sorted({s.record.dataset for s in stored})
    texts = [size_text(value, norm) for value in eps]
    blocks = []
    for name in names:
        found = [_find(row, name) for row in rows]
        trained = any(result is not None and result.train_domain for result in found)
        block = data_set_block(name, rows, found, texts, trained)
        blocks.append(_moves(replace(block, cells=[[replace(c, best=False) for c in row] for row in block.cells]), texts))
    far = [block for block in blocks if not block.train_domain]
    averages = [_moves(average_block("Zero-shot average", far, rows), texts)] if len(far) > 1 else []
    protocol = {"name": f"{len(rows)} protocols", "version": norm, "norm": norm, "sha256": ""}
    return Comparison(protocol, rows, eps, averages, blocks, rows="protocol")


def _find(row: Run, name: str) -> "Result | None":
    return next((stored.record for stored in row.results if stored.record.dataset == name), None)


def _moves(block: Block, eps: list[str]) -> Block:
    """The block with how far its numbers move said in points, in place of warnings meant for models in rows."""
    moves = []
    for index, name in enumerate(["clean", *eps]):
        values = [cell.value for cell in block.column(index) if cell.value is not None]
        if len(values) > 1:
            moves.append(
                f"{100 * (max(values) - min(values)):.1f} at {name}"
                if index
                else f"{100 * (max(values) - min(values)):.1f} clean"
            )
    unmarked = [[replace(cell, best=False) for cell in row] for row in block.cells]
    said = [f"same weights; between protocols accuracy moves by {', '.join(moves)} points"] if moves else []
    return replace(block, cells=unmarked, warnings=said)
