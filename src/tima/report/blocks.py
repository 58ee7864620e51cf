"""One data set's block: a row for each run, and in words what makes those rows hard to compare.

What differs within a data set (n, class names, templates) is named, and nothing there is called best.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from tima.report.comparison import MISSING, UNFINISHED, Block, Cell, size_text
from tima.report.runs import Run

if TYPE_CHECKING:
    from tima.results import Result


def data_set_block(name: str, runs: list[Run], found: list["Result | None"], eps: list[str], trained_on: bool) -> Block:
    there = [result for result in found if result is not None]
    cells, notes = [], []
    for result in found:
        note = MISSING if result is None or result.complete else UNFINISHED
        row = [Cell(note=note)] * (1 + len(eps))
        if result is not None:
            row[0] = Cell(result.clean.accuracy, *result.clean.ci95, result.clean.correct, result.n)
            for entry in result.robust:
                column = 1 + eps.index(size_text(entry.eps, result.norm))
                health = entry.health if entry.health is not None and entry.health.verdict != "cannot judge" else None
                row[column] = Cell(entry.robust_accuracy, *entry.ci95, entry.correct, entry.n, health=health)
        cells.append(row)
        notes.append(note if note == UNFINISHED else "")
    domain = trained_on or any(result.train_domain for result in there)
    counts = sorted({result.n for result in there})
    classes = len(there[0].class_names)
    images = " or ".join(f"{n:,}" for n in counts)
    about = f"{classes} classes · {images} images · {'training domain' if domain else 'zero-shot'}"
    return mark_best(Block(name, about, cells, _differences(runs, found), (), domain, 1 / max(1, classes), notes))


def _differences(runs: list[Run], found: list["Result | None"]) -> list[str]:
    """What makes the rows of one data set hard to compare, in words."""
    pairs = [(run.name, result) for run, result in zip(runs, found, strict=True) if result is not None]
    warnings = []
    if len({result.n for _, result in pairs}) > 1:
        each = ", ".join(f"{name} {result.n:,}" for name, result in pairs)
        warnings.append(f"different numbers of images ({each}), so not a like-for-like comparison")
    for words, values in (
        ("class names", [tuple(result.class_names) for _, result in pairs]),
        ("templates", [tuple(result.templates) for _, result in pairs]),
        ("sampling seeds", [result.seed for _, result in pairs]),
    ):
        if len(set(values)) > 1:
            warnings.append(f"different {words}, so not a like-for-like comparison")
    return warnings


def mark_best(block: Block) -> Block:
    """Mark the highest value of each column (all of them on a tie) unless rows cannot be compared or nothing was beaten."""
    if block.warnings or len(block.cells) < 2:
        return block
    marked = [list(row) for row in block.cells]
    for column in range(len(block.cells[0])):
        values = [cell.value for cell in block.column(column) if cell.value is not None]
        if len(values) > 1 and max(values) > min(values):
            for row in marked:
                row[column] = replace(row[column], best=row[column].value == max(values))
    return replace(block, cells=marked)
