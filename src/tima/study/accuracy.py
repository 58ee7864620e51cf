"""The comparison itself: averages, fronts, paired tests against the reference, and every data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tima.report.differences import p_text
from tima.report.paired import LEVEL
from tima.report.tables import Table
from tima.report.words import difference_text, listing, percent
from tima.stats import holm
from tima.study.compare import Paired, compare
from tima.study.document import Figure, Section
from tima.study.fronts import alt_text, front, front_svg, points
from tima.study.lines import Line, Number, View
from tima.study.records import CLEAN
from tima.study.schema import parent

AVERAGE = "zero-shot average"
NOTE = (
    "Accuracy in percent with its 95 % interval over images (normal from the sets' binomial variances for an average, Wilson "
    "for a set), then ± the standard deviation over training seeds where there are several. A line's seeds are averaged; they "
    "make the images no more, so the interval is that of one run."
)
COMMONEST = (
    " Commonest answer: the share of a set's images that get the answer given most often, without an attack; a method that is "
    "robust because it answers with few classes has a large one."
)
TESTS = (
    "Accuracy minus that of {reference}, in percentage points, on the very same images, with a 95 % paired bootstrap interval "
    "(images resampled within each set). p: random swaps of the two methods' outcomes on each image, all seeds of an image "
    "together; corrected after Holm over the {count} comparisons of this table. Significant: below 0.05 after that, and, where "
    "both have several training seeds, no seed of the worse one above a seed of the better one."
)


@dataclass(frozen=True)
class Test:
    """A line against the reference at one column. `apart`: whether their seeds' values overlap, None with single seeds."""

    line: Line
    reference: Line
    where: str
    column: str
    paired: Paired
    apart: bool | None
    p_holm: float = 1.0

    @property
    def significant(self) -> bool:
        return self.p_holm < LEVEL and self.apart is not False

    @property
    def word(self) -> str:
        if self.significant:
            return "significant"
        return "may be chance: seeds overlap" if self.p_holm < LEVEL else "may be chance"


def reference_of(view: View, reference: str, line: Line) -> Line | None:
    """The reference's line with the same training eps and set, else its first."""
    mine = [other for other in view.lines if other.row == reference]
    same = [o for o in mine if (o.runs[0].eps, o.runs[0].data) == (line.runs[0].eps, line.runs[0].data)]
    return next(iter([*same, *mine]), None)


def tests(view: View, reference: str, sets: Sequence[str] | None, rows: Mapping[str, Any]) -> list[Test]:
    """Every other line against the reference at every column: on the average (`sets` None), or on each of these sets.

    Rows that vary another are left out: they serve the comparison at equal clean accuracy, and each test costs others power.
    """
    found = []
    for line in (line for line in view.lines if parent(line.row, rows) == line.row):
        other = reference_of(view, reference, line)
        if other is None or other is line:
            continue
        for where, names in [(AVERAGE, view.zero_shot)] if sets is None else [(name, [name]) for name in sets]:
            for column in view.columns:
                pairs = view.pairs(line, other, [column], names) if names else None
                if pairs is not None:
                    apart = _apart(_number(view, line, where, column), _number(view, other, where, column))
                    found.append(Test(line, other, where, column, compare(pairs), apart))
    adjusted = holm([test.paired.p for test in found])
    return [replace(test, p_holm=p) for test, p in zip(found, adjusted, strict=True)]


def _number(view: View, line: Line, where: str, column: str) -> Number | None:
    return view.average(line, column) if where == AVERAGE else view.number(line, where, column)


def _apart(a: Number | None, b: Number | None) -> bool | None:
    if a is None or b is None or min(len(a.by_seed), len(b.by_seed)) < 2:
        return None
    return min(a.by_seed) > max(b.by_seed) or max(a.by_seed) < min(b.by_seed)


def accuracy_sections(view: View, reference: str, key: str, rows: Mapping[str, Any]) -> list[Section]:
    """Averages with figures and tests, then the sets. `rows`: of the study."""
    if not view.lines:
        return [Section(f"Accuracy under {view.label}", text=["Nothing has been judged under this protocol yet."])]
    averages = tests(view, reference, None, rows)
    title = f"Accuracy under {view.label}" + (f" ({view.sha256[:8]})" if view.protocol["name"] == "custom" else "")
    about = [str(view.protocol.get("about", "")).rstrip(".") + "."] if view.protocol.get("about") else []
    text = [*about, *_said(view, averages)]
    if view.missing:
        text.append(f"Not on the machine that ran this, so in no average: {listing(view.missing)}.")
    figures = []
    for column in view.columns[1:]:
        found = points(view, column)
        if found:
            name = f"{key}-front-{column.replace('/', '-')}"
            svg = front_svg(view, column, name, rows)
            figures.append(Figure(f"Accuracy and robustness at {column}", svg, name, alt_text(found, front(found), column)))
    tables = [_table(view, AVERAGE)] if view.zero_shot else []
    tables += [_matrix(view, averages)] if averages else []
    by_set = tests(view, reference, view.data, rows)
    folded = [_tests_table("Against the reference, on the average, with p", averages)] if averages else []
    folded += [_table(view, data) for data in view.data]
    folded += [_tests_table("Against the reference, set by set", by_set)] if by_set else []
    return [Section(title, text=text, tables=tables, figures=figures, folded=folded)]


def _said(view: View, averages: list[Test]) -> list[str]:
    """Who is best where, and whether that is more than chance."""
    said = []
    chance = view.chance(view.zero_shot)
    if chance is not None:
        said.append(
            f"Giving one and the same answer to every image is right for {percent(chance)} % of this average, attacked or not: "
            "a method can gain robust accuracy by answering with fewer classes, and a number near this one shows no more."
        )
    for column in view.columns:
        ranked = sorted(
            ((number, line) for line in view.lines if (number := view.average(line, column)) is not None),
            key=lambda pair: -pair[0].value,
        )
        if not ranked:
            continue
        number = ranked[0][0]
        where = "Without an attack" if column == CLEAN else f"At {column}"
        if number.value == 0:
            said.append(f"{where}, no method gets a single image right.")
            continue
        best = [line for n, line in ranked if n.value == number.value]
        verb = "is" if len(best) == 1 else "are"
        sentence = (
            f"{where}, {listing([line.name for line in best])} {verb} right most often on average over "
            f"{len(view.zero_shot)} zero-shot sets: {percent(number.value)} % ({_range(number)})"
        )
        test = next((t for t in averages if t.line is best[0] and t.column == column), None) if len(best) == 1 else None
        if test is not None:
            sentence += (
                f", {difference_text(test.paired.value)} points from {test.reference.name}, which is "
                f"{'significant' if test.significant else 'not significant'} (p {_p(test.p_holm)})"
            )
        said.append(sentence + ".")
        if chance is not None and number.low <= chance:
            said[-1] += " That is not shown to be more than what one answer to everything gets."
        if column != CLEAN and (found := points(view, column)):
            said[-1] += f" On the front of clean and robust accuracy: {listing([p.name for p in front(found)])}."
    if averages:
        count = sum(t.significant for t in averages)
        said.append(f"Of {len(averages)} differences from the reference on the averages, {count} are significant after Holm.")
    return said


def _table(view: View, where: str) -> Table:
    rows = []
    sets = view.zero_shot if where == AVERAGE else [where]
    shares = [view.commonest(line, sets) for line in view.lines]
    counted = any(share is not None for share in shares)
    for line, share in zip(view.lines, shares, strict=True):
        found = [_number(view, line, where, column) for column in view.columns]
        if where == AVERAGE or any(found):
            seeds = max((len(number.by_seed) for number in found if number is not None), default=0)
            shown = [] if not counted else ["" if share is None else percent(share)]
            rows.append([line.name, str(seeds), *(_cell(n, view, line, where) for n in found), *shown])
    if rows and (chance := view.chance(sets)) is not None:
        rows.append(["one answer to everything", "", *([percent(chance)] * len(view.columns)), *(["100.0"] * counted)])
    if where == AVERAGE:
        rows += [[name, "", why, *([""] * (len(view.columns) - 1 + counted))] for name, why in view.absent]
    example = next((n for line in view.lines if (n := _number(view, line, where, CLEAN)) is not None), None)
    images = f"{example.n:,} images" if example is not None else "no images"
    columns = ["method", "seeds", *view.columns, *(["commonest answer"] * counted)]
    if where == AVERAGE:
        note = f"{images} of {len(view.zero_shot)} sets: {', '.join(view.zero_shot)}. {NOTE}{COMMONEST if counted else ''}"
        return Table("Zero-shot average", columns, rows, note)
    domain = "" if where in view.zero_shot else ", training domain"
    return Table(f"{where}{domain}", columns, rows, f"{images}.")


def _cell(number: Number | None, view: View, line: Line, where: str) -> str:
    if number is None:
        sets = view.zero_shot if where == AVERAGE else [where]
        have = sum(bool(line.results(data, view.sha256)) for data in sets)
        if have == len(sets) and not view.whole(line, sets):
            return "missing: not every seed on every set"
        return f"missing: {have} of {len(sets)} sets" if len(sets) > 1 else "missing"
    spread = "" if number.spread is None else f" ± {percent(number.spread)}"
    return f"{percent(number.value)} ({_range(number)}){spread}"


def _matrix(view: View, found: list[Test]) -> Table:
    """Differences at a glance, a row a method; a star marks what is significant."""
    rows = []
    for line in dict.fromkeys(id(t.line) for t in found):
        mine = {t.column: t for t in found if id(t.line) == line}
        first = next(iter(mine.values()))
        cells = [_difference(mine[column]) if column in mine else "" for column in view.columns]
        rows.append([f"{first.line.name} − {first.reference.name}", *cells])  # noqa: RUF001 (a minus sign)
    note = "Percentage points with a 95 % interval; * is significant after Holm, see the table with p below."
    return Table("Against the reference, on the average", ["methods", *view.columns], rows, note)


def _difference(test: Test) -> str:
    star = " *" if test.significant else ""
    value, low, high = map(difference_text, (test.paired.value, test.paired.low, test.paired.high))
    return f"{value} ({low} to {high}){star}"


def _tests_table(title: str, found: list[Test]) -> Table:
    by_set = len({t.where for t in found}) > 1 or found[0].where != AVERAGE
    rows = [
        [
            *([t.where] if by_set else []),
            f"{t.line.name} − {t.reference.name}",  # noqa: RUF001 (a minus sign)
            t.column,
            difference_text(t.paired.value),
            f"{difference_text(t.paired.low)} to {difference_text(t.paired.high)}",
            p_text(t.p_holm),
            t.word,
        ]
        for t in found
    ]
    columns = [*(["data"] if by_set else []), "methods", "eps", "difference", "95 % interval", "p (Holm)", ""]
    reference = listing(sorted({t.reference.name for t in found}))
    return Table(title, columns, rows, TESTS.format(reference=reference, count=len(found)))


def _range(number: Number) -> str:
    return f"{percent(number.low)}–{percent(number.high)}"  # noqa: RUF001 (a range takes an en dash)


def _p(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"
