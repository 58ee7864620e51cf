"""Averages over data sets, with the interval, the chance accuracy and the attack health of an average."""

from typing import TYPE_CHECKING

from tima.report.blocks import mark_best
from tima.report.comparison import MISSING, UNFINISHED, Block, Cell
from tima.report.runs import Run
from tima.stats import macro_average

if TYPE_CHECKING:
    from tima.results import Health


def average_block(title: str, blocks: list[Block], runs: list[Run]) -> Block:
    """Unweighted mean over data sets. A run that lacks one has no average: a mean over other sets would mislead."""
    cells = []
    for row in range(len(runs)):
        averaged = []
        for column in range(len(blocks[0].cells[row])):
            parts = [block.cells[row][column] for block in blocks]
            have = [part for part in parts if part.value is not None]
            if len(have) == len(parts):
                mean, low, high = macro_average([(part.correct, part.n) for part in parts])
                counts = sum(p.correct for p in parts), sum(p.n for p in parts)
                averaged.append(Cell(mean, low, high, *counts, health=_joint_health(blocks, parts)))
            else:
                reason = UNFINISHED if any(part.note == UNFINISHED for part in parts) else MISSING
                averaged.append(Cell(note=f"{reason}: {len(have)} of {len(parts)} sets"))
        cells.append(averaged)
    uneven = [block.title for block in blocks if block.warnings]
    warnings = [f"see the note at {', '.join(uneven)}: rows are not compared like for like"] if uneven else []
    names = tuple(block.title for block in blocks)
    chances = [block.chance for block in blocks if block.chance is not None]
    chance = sum(chances) / len(chances) if len(chances) == len(blocks) else None
    numbers = {row[0].n for row in cells if row[0].n}
    images = f" ({numbers.pop():,} images)" if len(numbers) == 1 else ""
    about = f"unweighted mean of {len(names)} data sets{images}: {', '.join(names)}"
    return mark_best(Block(title, about, cells, warnings, names, any(b.train_domain for b in blocks), chance))


def _joint_health(blocks: list[Block], parts: list[Cell]) -> "Health | None":
    """An average is as doubtful as its worst part, and reliable only when every part was looked at."""
    from tima.results import Health

    reasons = [
        f"{block.title}: {'; '.join(part.health.reasons) or 'suspicious'}"
        for block, part in zip(blocks, parts, strict=True)
        if part.health is not None and part.suspicious
    ]
    if reasons:
        return Health(verdict="suspicious", reasons=reasons)
    return Health(verdict="reliable") if all(part.health is not None for part in parts) else None
