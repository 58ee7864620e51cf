"""From runs to comparisons: one for each protocol that was found, data sets in order, the training domain last."""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from tima.report.averages import average_block
from tima.report.blocks import data_set_block
from tima.report.comparison import Comparison, protocol_key, size_text
from tima.report.runs import Run

if TYPE_CHECKING:
    from tima.results import Result


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """One `Comparison` for each protocol found in the runs' results, the most used one first."""
    found: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        for stored in run.results:
            found.setdefault(protocol_key(stored.record.protocol), []).append(stored.record)
    order = sorted(found, key=lambda key: -len(found[key]))
    return [_compare_under(key, found[key], list(runs)) for key in order]


def _compare_under(key: tuple[str, str], results: list["Result"], runs: list[Run]) -> Comparison:
    protocol = results[0].protocol
    norm = str(protocol.get("norm", results[0].norm))
    wanted = [float(Fraction(str(e))) for e in protocol.get("eps") or []] + [row.eps for r in results for row in r.robust]
    eps = sorted({size_text(value, norm): value for value in wanted}.values())
    trained_on = {run.summary.get("data") for run in runs if run.trained}
    blocks = []
    for name in sorted({result.dataset for result in results}):
        found = [_find(run, name, key) for run in runs]
        blocks.append(data_set_block(name, runs, found, [size_text(e, norm) for e in eps], name in trained_on))
    blocks.sort(key=lambda block: block.train_domain)
    far = [block for block in blocks if not block.train_domain]
    averages = []
    if len(far) > 1:
        averages.append(average_block("Zero-shot average", far, runs))
    if far and len(far) < len(blocks):
        averages.append(average_block("Average with the training domain", blocks, runs))
    return Comparison(protocol, runs, eps, averages, blocks)


def _find(run: Run, name: str, key: tuple[str, str]) -> "Result | None":
    matching = (stored.record for stored in run.results if stored.record.dataset == name)
    return next((record for record in matching if protocol_key(record.protocol) == key), None)
