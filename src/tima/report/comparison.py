"""The comparison itself, free of any layout: blocks (averages, data sets) x runs x (clean, every eps).

Only results of one protocol (name, version and content hash) meet in one `Comparison`; a second protocol makes a
second one. What differs within a data set (n, class names, templates) is named and nothing there is called best.
All values are fractions in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tima.eps import format_eps
from tima.report.runs import Run
from tima.stats import macro_average

if TYPE_CHECKING:
    from tima.results import Health, Result

CLEAN = "clean"
MISSING, UNFINISHED = "missing", "unfinished"


@dataclass(frozen=True)
class Cell:
    """One number with its 95 % interval, or the reason why there is none."""

    value: float | None = None
    low: float = 0.0
    high: float = 0.0
    correct: int = 0
    n: int = 0
    note: str = ""
    best: bool = False
    health: "Health | None" = None

    @property
    def suspicious(self) -> bool:
        return self.health is not None and self.health.verdict == "suspicious"


@dataclass(frozen=True)
class Block:
    """One data set or average: a row of cells for each run, in the order of the runs and of `Comparison.columns`."""

    title: str
    about: str
    cells: list[list[Cell]]
    warnings: list[str] = field(default_factory=list)
    average_of: tuple[str, ...] = ()
    train_domain: bool = False
    chance: float | None = None
    row_notes: list[str] = field(default_factory=list)

    def column(self, index: int) -> list[Cell]:
        return [row[index] for row in self.cells]


@dataclass(frozen=True)
class Comparison:
    """Everything measured under one protocol."""

    protocol: dict[str, Any]
    runs: list[Run]
    eps: list[float]
    averages: list[Block]
    data_sets: list[Block]

    @property
    def columns(self) -> list[str]:
        return [CLEAN, *(size_text(eps, self.norm) for eps in self.eps)]

    @property
    def norm(self) -> str:
        return str(self.protocol.get("norm", "l_inf"))

    @property
    def blocks(self) -> list[Block]:
        return [*self.averages, *self.data_sets]

    @property
    def label(self) -> str:
        return protocol_label(self.protocol)

    @property
    def headline_column(self) -> int:
        """The column to put into words: the runs' training eps if it was evaluated, else the middle one."""
        trained = [run.train_eps for run in self.runs if run.train_eps in self.columns]
        if trained:
            return self.columns.index(max(trained, key=trained.count))
        return (len(self.eps) + 1) // 2

    def best_block(self) -> Block:
        return self.blocks[0]


def protocol_label(protocol: dict[str, Any]) -> str:
    """`demo@1`."""
    return f"{protocol.get('name', 'unnamed')}@{protocol.get('version', '?')}"


def size_text(eps: float, norm: str) -> str:
    """A perturbation size as people write it: `4/255` of the pixel range for l_inf, a plain length for l_2."""
    return format_eps(eps) if norm == "l_inf" else f"{eps:.4g}"


def compare(runs: Sequence[Run]) -> list[Comparison]:
    """One `Comparison` for each protocol found in the runs' results, the most used one first."""
    found: dict[tuple[str, str], list[Result]] = {}
    for run in runs:
        for stored in run.results:
            found.setdefault(protocol_key(stored.record.protocol), []).append(stored.record)
    order = sorted(found, key=lambda key: -len(found[key]))
    return [_compare_under(key, found[key], list(runs)) for key in order]


def protocol_key(protocol: dict[str, Any]) -> tuple[str, str]:
    """Results compare only if these are equal: name with version, and content hash."""
    return protocol_label(protocol), str(protocol.get("sha256", ""))


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
                row[column] = Cell(entry.robust_accuracy, *entry.ci95, entry.correct, entry.n, health=entry.health)
        cells.append(row)
        notes.append(note if note == UNFINISHED else "")
    domain = trained_on or any(result.train_domain for result in there)
    counts = sorted({result.n for result in there})
    classes = len(there[0].class_names)
    images = " or ".join(f"{n:,}" for n in counts)
    about = f"{classes} classes · {images} images · {'training domain' if domain else 'zero-shot'}"
    return _mark_best(Block(name, about, cells, _differences(runs, found), (), domain, 1 / max(1, classes), notes))


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
    return _mark_best(Block(title, about, cells, warnings, names, any(b.train_domain for b in blocks), chance))


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


def _mark_best(block: Block) -> Block:
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
