"""What lies behind each number: attack health, each attack's share, cost, calibration, margins, classes.

Only results that have these fields give a table; results of schema 1 give fewer.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tima.report.comparison import Block, Comparison, protocol_key
from tima.report.margin_plots import margin_figures
from tima.report.margins import margin_table
from tima.report.runs import Run, Stored
from tima.report.tables import Table
from tima.report.words import MARK, duration, percent

if TYPE_CHECKING:
    from tima.results import Robust

MOST_CLASSES = 100


@dataclass(frozen=True)
class Detail:
    """Everything behind one data set's table. `figures`: (column, SVG) of the margin histograms."""

    block: Block
    tables: list[Table]
    figures: list[tuple[str, str]]


def details(comparison: Comparison) -> list[Detail]:
    """One `Detail` for each data set that has something to show."""
    found = []
    for block in comparison.data_sets:
        pairs = results_of(comparison, block)
        tables = [
            health_table(pairs),
            attack_table(pairs),
            calibration_table(comparison, pairs),
            margin_table(comparison, pairs),
        ]
        tables.append(class_table(comparison, pairs))
        figures = margin_figures(comparison, pairs)
        shown = [table for table in tables if table is not None]
        if shown:
            found.append(Detail(block, shown, figures))
    return found


def results_of(comparison: Comparison, block: Block) -> list[tuple[Run, Stored]]:
    """The runs that have a result in this block, in their order."""
    key = protocol_key(comparison.protocol)
    return [
        (run, stored)
        for run in comparison.runs
        for stored in run.results
        if stored.record.dataset == block.title and protocol_key(stored.record.protocol) == key
    ]


def health_table(pairs: list[tuple[Run, Stored]]) -> Table | None:
    """A row for each indicator of each robust number."""
    rows: list[list[str]] = []
    alarms: set[int] = set()
    for run, stored in pairs:
        for robust in stored.record.robust:
            health = robust.health
            for indicator in health.indicators if health else []:
                if indicator.fired:
                    alarms.add(len(rows))
                value = "" if indicator.value is None else f"{indicator.value:.4g}"
                limit = "" if indicator.limit is None else f"{indicator.limit:.4g}"
                sign = f"{MARK} fired" if indicator.fired else "not measured" if indicator.value is None else "quiet"
                note = indicator.note.removeprefix("not measured: ")
                rows.append([run.name, robust.eps_text, indicator.name.replace("_", " "), sign, value, limit, note])
    columns = ["model", "eps", "indicator", "", "value", "limit", "note"]
    return Table("Attack health, indicator by indicator", columns, rows, alarms=frozenset(alarms)) if rows else None


def attack_table(pairs: list[tuple[Run, Stored]]) -> Table | None:
    """A row for each attack at each eps: what it alone added to the broken images, and what it cost."""
    rows = []
    for run, stored in pairs:
        for robust in stored.record.robust:
            fresh = sum(attack.broken for attack in robust.attacks)
            for attack in robust.attacks:
                share = f"{percent(attack.broken / fresh)} %" if fresh else ""
                cost = [
                    f"{value:,}" if value is not None else "" for value in (attack.attacked, attack.forwards, attack.backwards)
                ]
                time = "" if attack.wall_time_s is None else duration(attack.wall_time_s)
                rows.append([run.name, robust.eps_text, attack.name, f"{attack.broken:,}", share, *cost, time])
            if len(robust.attacks) > 1 or any(attack.forwards is None for attack in robust.attacks):
                rows.append([run.name, robust.eps_text, "together", f"{fresh:,}", "", "", *_cost(robust)])
    columns = ["model", "eps", "attack", "newly broken", "share", "attacked", "forwards", "backwards", "time"]
    note = (
        "Attacks run in this order. An image counts for the first that broke it; those wrong before are attacked no more. "
        "Forwards and backwards count images."
    )
    return Table("Each attack's share of what was broken, and its cost", columns, rows, note) if rows else None


def _cost(robust: "Robust") -> list[str]:
    return [f"{robust.forwards:,}", f"{robust.backwards:,}", duration(robust.wall_time_s)]


def calibration_table(comparison: Comparison, pairs: list[tuple[Run, Stored]]) -> Table | None:
    """Expected calibration error in percentage points, clean and at each eps."""
    rows = []
    for run, stored in pairs:
        by_eps = {robust.eps: robust.ece for robust in stored.record.robust}
        values = [stored.record.clean.ece, *(by_eps.get(eps) for eps in comparison.eps)]
        if any(value is not None for value in values):
            rows.append([run.name, *("" if value is None else f"{100 * value:.1f}" for value in values)])
    note = (
        "Expected calibration error in percentage points (Guo et al. 2017, 15 bins): how far confidence and accuracy lie "
        "apart; 0 is perfect. Attacked images: as the attack left them, right or wrong."
    )
    return Table("Calibration error", ["model", *comparison.columns], rows, note) if rows else None


def class_table(comparison: Comparison, pairs: list[tuple[Run, Stored]]) -> Table | None:
    """Accuracy of each class, clean and at the headline eps; of many classes those that fare worst."""
    head = comparison.headline_column
    eps = comparison.eps[head - 1] if head else None
    columns, parts = [], []
    for run, stored in pairs:
        record = stored.record
        robust = next((row.correct_per_class for row in record.robust if row.eps == eps), None)
        for name, counts in (("clean", record.clean.correct_per_class), (comparison.columns[head], robust)):
            if counts is not None and record.class_counts is not None and (name != "clean" or counts is not robust):
                columns.append(f"{run.name}, {name}")
                parts.append((record.class_names, record.class_counts, counts))
    if not parts or len({tuple(names) for names, _, _ in parts}) > 1 or len({tuple(of) for _, of, _ in parts}) > 1:
        return None  # classes of different lists or images do not belong in one row
    names, of, _ = parts[0]
    order = sorted(range(len(names)), key=lambda c: sum(counts[c] for _, _, counts in parts) / max(1, of[c]))
    shown = order if len(order) <= MOST_CLASSES else [c for c in order if of[c]][:MOST_CLASSES]
    rows = [[names[c], f"{of[c]:,}", *(percent(counts[c] / of[c]) if of[c] else "" for _, _, counts in parts)] for c in shown]
    note = "In percent; the class that fares worst over all columns comes first."
    if len(shown) < len(order):
        note += f" The worst {len(shown)} of {len(order):,} classes."
    return Table("Accuracy of each class", ["class", "images", *columns], rows, note)
