"""What the table shows, said in words: computed from the numbers, never typed."""

from typing import TYPE_CHECKING

from tima.evaluation.missing import read_missing
from tima.report.comparison import MISSING, UNFINISHED, Block, Cell, Comparison, protocol_key
from tima.report.eight_bits import eight_bit_sentence
from tima.report.runs import Run

if TYPE_CHECKING:
    from tima.report.paired import Paired

FEW = 16  # images of a health probe: below it a fault that concerns a third of the images is missed in every sixth case
MARK = "⚠"  # beside a robust number whose attack cannot be believed


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def interval(cell: Cell) -> str:
    """Both ends in percent, joined by an en dash."""
    return f"{percent(cell.low)}–{percent(cell.high)}"  # noqa: RUF001 (a range takes an en dash)


def listing(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def difference_text(value: float) -> str:
    """A difference of two accuracies in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "−").replace("inf", "∞")  # noqa: RUF001 (a minus sign)


def summary_sentences(comparison: Comparison, found: "Paired | None" = None) -> list[str]:
    """One to three sentences: who is best at the headline eps, whether that may be chance, and clean accuracy.

    Args:
        found: the paired comparison. It decides what may be chance, so that no sentence contradicts its table; intervals of two
            rows can overlap though the images that differ all favour one. Pairs that it lacks are judged by their intervals.
    """
    block = comparison.best_block()
    column = comparison.headline_column
    ranked = _ranked(comparison, block, column)
    clean = _ranked(comparison, block, 0)
    if not ranked or column == 0:
        return [_clean_sentence(_where(block), clean)] if clean else ["None of the runs has a finished result yet."]
    cell = ranked[0][1]
    first = [r.name for r, c in ranked if c.value == cell.value]
    rest = ranked[len(first) :]
    eps = comparison.columns[column]
    verb = "classifies" if len(first) == 1 else "classify"
    sentence = (
        f"{_where(block)}, {listing(first)} still {verb} {percent(cell.value or 0)} % of the images correctly "
        f"(95 % interval {interval(cell)}) when {_budget(comparison, eps)}"
    )
    if rest:
        sentence += f", against {listing([f'{percent(c.value or 0)} % for {r.name}' for r, c in rest])}"
    sentences = [sentence + "."]
    if len(ranked) > 1 and block.warnings:
        sentences.append("These rows are not compared like for like; see the notes at the tables.")
    else:
        tested = {
            frozenset((d.first, d.second)): d.significant
            for d in (found.differences if found is not None else [])
            if d.data == block.title and d.column == comparison.columns[column]
        }
        known = [r.name for r, _ in rest if all(frozenset((best, r.name)) in tested for best in first)]
        equal = [name for name in known if not all(tested[frozenset((best, name))] for best in first)]
        near = [r.name for r, c in rest if r.name not in known and c.high >= cell.low]
        if equal:
            sentences.append(f"On the same images, the difference between {listing(first + equal)} may be chance.")
        if near:
            sentences.append(f"The intervals of {listing(first + near)} overlap, so that difference may be chance.")
    if clean:
        sentences.append(_clean_sentence("Without an attack", clean))
    return sentences


def closing_sentences(comparison: Comparison) -> list[str]:
    """What the numbers cost and whether their attack can be believed; empty where the results do not say."""
    said = (chance_sentence(comparison), cost_sentence(comparison), health_sentence(comparison), eight_bit_sentence(comparison))
    return [sentence for sentence in said if sentence]


def chance_sentence(comparison: Comparison) -> str:
    """What one answer to everything gets, which no attack can change, and from which eps on a run is not shown to be better."""
    if not comparison.blocks or comparison.rows != "model":  # protocols are not ranked, so none is beaten by chance
        return ""
    block = comparison.best_block()
    if (chance := block.chance) is None:
        return ""
    said = f"{_where(block)}, giving one and the same answer to every image is right for {percent(chance)} %, attacked or not"
    low = [
        f"{run.name} {start}"
        for run, row in zip(comparison.runs, block.cells, strict=True)
        if (start := _from(comparison.columns, [cell.value is not None and cell.low > chance for cell in row]))
    ]
    return f"{said}; not shown to be above that: {listing(low)}." if low else f"{said}; every number is above that."


def _from(columns: list[str], above: list[bool]) -> str:
    """From which column on none is above; empty if the last one is."""
    first = len(above) - next((i for i, yes in enumerate(reversed(above)) if yes), len(above))
    if first == len(above):
        return ""
    if first == 0:
        return "even without an attack"
    return f"from {columns[first]} on" if first < len(above) - 1 else f"at {columns[first]}"


def cost_sentence(comparison: Comparison) -> str:
    """The time that the evaluations behind the table took, for each run."""
    names = {block.title for block in comparison.data_sets}
    parts = []
    for run in comparison.runs:
        mine = [s.record for s in run.results if protocol_key(s.record.protocol) == protocol_key(comparison.protocol)]
        seconds = sum(record.wall_time_s for record in mine if record.dataset in names)
        parts += [f"{duration(seconds)} for {run.name}"] if mine else []
    return f"The evaluation took {listing(parts)}." if parts else ""


def health_sentence(comparison: Comparison) -> str:
    """How many robust numbers have an attack that looks sound; empty when no result says."""
    cells = [cell for block in comparison.data_sets for row in block.cells for cell in row[1:] if cell.value is not None]
    known = [cell for cell in cells if cell.health is not None]
    if not known:
        return ""
    bad = sum(cell.suspicious for cell in known)
    number = "all" if len(known) == len(cells) else str(len(known))
    said = f"reliable for {number}" if not bad else f"suspicious for {bad} of {len(known)}"
    mark = f", marked {MARK}" if bad else ""
    unknown = f"; {len(cells) - len(known)} have no verdict" if len(known) < len(cells) else ""
    smallest = min((cell.health.probe_n for cell in known if cell.health is not None), default=0)
    few = f"; the smallest probe held {smallest} right images, too few to see most faults" if 0 < smallest < FEW else ""
    return f"Attack health: {said} robust numbers of the data sets{mark}{unknown}{few}."


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _clean_sentence(where: str, ranked: list[tuple[Run, Cell]]) -> str:
    return f"{where}, {listing([f'{run.name} reaches {percent(cell.value or 0)} %' for run, cell in ranked])}."


def _budget(comparison: Comparison, eps: str) -> str:
    if comparison.norm == "l_inf":
        return f"an attack may change every pixel by up to {eps}"
    return f"an attack may move the picture by up to {eps} in {comparison.norm} distance"


def _where(block: Block) -> str:
    if block.average_of:
        kind = "data sets" if block.train_domain else "zero-shot data sets"
        return f"On average over {len(block.average_of)} {kind}"
    return f"On {block.title}"


def _ranked(comparison: Comparison, block: Block, column: int) -> list[tuple[Run, Cell]]:
    pairs = [(run, cell) for run, cell in zip(comparison.runs, block.column(column), strict=True) if cell.value is not None]
    return sorted(pairs, key=lambda pair: -(pair[1].value or 0))


def warnings_of(comparisons: list[Comparison], runs: list[Run]) -> list[str]:
    """Everything a reader must know before comparing rows: protocols, missing, unfinished, uneven, left-out images."""
    found = []
    if len(comparisons) > 1:
        labels = listing([f"{c.label} ({str(c.protocol.get('sha256', ''))[:8]})" for c in comparisons])
        found.append(
            f"The runs were evaluated under different protocols: {labels}. Each has its tables; do not compare across."
        )
    for comparison in comparisons:
        for block in comparison.data_sets:
            prefix = f"{block.title}, {comparison.label}" if len(comparisons) > 1 else block.title
            found += [f"{prefix}: {warning}." for warning in block.warnings]
            for note in (MISSING, UNFINISHED):
                pairs = zip(comparison.runs, block.cells, block.row_notes, strict=True)
                names = [r.name for r, row, mark in pairs if (mark or _row_state(row)) == note]
                if names:
                    found.append(f"{prefix}: {note} for {listing(names)}.")
    found += _fallbacks(runs)
    for run in runs:
        found += [f"{run.name}: {m.data} could not be evaluated under {m.protocol}: {m.why}" for m in read_missing(run.folder)]
        count = sum(len(stored.record.quarantine) for stored in run.results)
        if count:
            images = "1 image could not be read and was" if count == 1 else f"{count} images could not be read and were"
            found.append(f"{run.name}: {images} left out; see the provenance.")
    return found


def _fallbacks(runs: list[Run]) -> list[str]:
    """What had to be done otherwise than asked, each once, with whose results it concerns."""
    concerned: dict[str, dict[str, int]] = {}
    for run in runs:
        for text in (text for stored in run.results for text in dict.fromkeys(stored.record.fallbacks)):
            names = concerned.setdefault(text, {})
            names[run.name] = names.get(run.name, 0) + 1
    return [
        f"{listing(list(names))}: {text} ({sum(names.values())} result{'s' if sum(names.values()) > 1 else ''})."
        for text, names in concerned.items()
    ]


def _row_state(row: list[Cell]) -> str:
    return MISSING if any(cell.note == MISSING for cell in row) else ""
