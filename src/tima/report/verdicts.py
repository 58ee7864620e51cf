"""Whether the attacks can be believed, in one table: a row for each data set, a column for each model."""

from tima.report.comparison import Cell, Comparison
from tima.report.tables import Table
from tima.report.words import FEW, MARK, listing


def verdict_table(comparison: Comparison) -> Table | None:
    """The health verdicts over all eps; None when no result has one."""
    rows: list[list[str]] = []
    alarms: set[int] = set()
    for block in comparison.data_sets:
        words = [verdict_words(row[1:], comparison.columns[1:]) for row in block.cells]
        if any(cell.suspicious for row in block.cells for cell in row):
            alarms.add(len(rows))
        rows.append([block.title, *words])
    if not any(cell.health is not None for block in comparison.data_sets for row in block.cells for cell in row):
        return None
    note = (
        "Reliable: no indicator fired on the probed images. Suspicious: the attack may have failed, so the model may be weaker "
        f"than its number says. A probe of fewer than {FEW} images that were right when clean can miss most faults."
    )
    return Table(
        "Can the attacks be believed?", ["data", *(run.name for run in comparison.runs)], rows, note, frozenset(alarms)
    )


def verdict_words(cells: list[Cell], eps: list[str]) -> str:
    """One model's verdicts on one data set: `✓ reliable, 64 images probed`, or where and why not."""
    known = [(cell, name) for cell, name in zip(cells, eps, strict=True) if cell.health is not None]
    if not known:
        return "no verdict"
    bad = [(cell, name) for cell, name in known if cell.suspicious]
    if bad:
        reasons = dict.fromkeys(reason for cell, _ in bad for reason in (cell.health.reasons if cell.health else []))
        why = f": {'; '.join(reasons)}" if reasons else ""
        return f"{MARK} suspicious at {listing([name for _, name in bad])}{why}"
    where = "" if len(known) == len(cells) else f" at {listing([name for _, name in known])}"
    probed = min((cell.health.probe_n for cell, _ in known if cell.health), default=0)
    number = f", {probed} image{'' if probed == 1 else 's'} probed{' (few)' if probed < FEW else ''}" if probed else ""
    return f"✓ reliable{where}{number}"
