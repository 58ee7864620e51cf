"""The papers' claims on these data: each judged by its rule from intervals (see `claims.py`), never by hand."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from tima.report.differences import p_text
from tima.report.tables import Table
from tima.report.words import listing
from tima.stats import holm
from tima.study.claims import (
    DOES_NOT,
    HOLDS,
    UNDECIDED,
    Claim,
    CorrelationClaim,
    DifferenceClaim,
    Estimate,
    OffsetClaim,
    evenness,
    pooled_correlation,
    verdict,
)
from tima.study.compare import Paired, compare
from tima.study.document import Section
from tima.study.lines import Line, View

RULES = (
    "Each verdict comes from a 95 % interval by a rule that was written down before: a difference holds when its whole "
    "interval lies above the bound, does not when it lies below, and is undecided when the bound lies inside. p (Holm) is "
    "corrected over all differences of this table, and says which verdicts would survive that; margins: see the rules in "
    "`claims.py`. One training run a row unless more seeds are given: a verdict is about these runs on these images."
)


@dataclass(frozen=True)
class Judged:
    """A claim with what was found. `paired` for differences."""

    claim: Any
    verdict: str
    estimate: Estimate | None
    measured: str
    paired: Paired | None = None


def judge(claims: list[Any], view: View) -> list[Judged]:
    """Every claim, in order."""
    adapter: TypeAdapter[Any] = TypeAdapter(Claim)
    return [_judge(adapter.validate_python(value), view) for value in claims]


def verdict_section(claims: list[Any], view: View) -> Section | None:
    """The table of claims and a closing sentence; None when the study makes none."""
    if not claims:
        return None
    found = judge(claims, view)
    tested = [j for j in found if j.paired is not None]
    adjusted = dict(zip(map(id, tested), holm([j.paired.p for j in tested if j.paired is not None]), strict=True))
    rows = []
    for j in found:
        interval = "" if j.estimate is None else _interval(j)
        p = p_text(adjusted[id(j)]) if id(j) in adjusted else ""
        rows.append([j.claim.claim, j.claim.source, j.measured, interval, p, j.verdict])
    columns = ["claim", "source", "measured as", "found (95 % interval)", "p (Holm)", "verdict"]
    words = {HOLDS: "hold", DOES_NOT: "do not", UNDECIDED: "are undecided"}
    counts = [f"{sum(j.verdict == v for j in found)} {word}" for v, word in words.items()]
    said = f"Of {len(found)} claims, {listing(counts)}, under {view.label}."
    return Section("What the papers claim, on these data", text=[said], tables=[Table("Claims", columns, rows, RULES)])


def _judge(claim: Any, view: View) -> Judged:
    line = _line(claim.row, view)
    if isinstance(claim, DifferenceClaim):
        return _difference(claim, line, view)
    results = [r for data in view.zero_shot for r in (line.results(data, view.sha256) if line else [])]
    if isinstance(claim, OffsetClaim):
        estimate = evenness([r.offsets[claim.to] for r in results if claim.to in r.offsets])
        measured = f"margins of {claim.row}: deviation / mean of the fall to {claim.to}, below {claim.limit:g}"
        return Judged(claim, verdict(estimate, claim.limit, above=False), estimate, measured)
    assert isinstance(claim, CorrelationClaim)
    # seeds of a line share their class texts' neighbours: one result a set
    by_set = {r.data: r for r in results}.values()
    estimate = pooled_correlation(
        [(r.margin_similarity[claim.at], r.classes) for r in by_set if claim.at in r.margin_similarity]
    )
    measured = f"margins of {claim.row}, {claim.at}: correlation with the cosine to the nearest class text, below 0"
    return Judged(claim, verdict(estimate, 0.0, above=False), estimate, measured)


def _difference(claim: DifferenceClaim, line: Line | None, view: View) -> Judged:
    other = _line(claim.than, view)
    bound = f" by more than {claim.by:g} points" if claim.by > 0 else f", losing no more than {-claim.by:g}" if claim.by else ""
    measured = f"{claim.row} above {claim.than} at {listing(claim.at)}{bound}"
    known = all(column in view.columns for column in claim.at)
    pairs = view.pairs(line, other, claim.at, view.zero_shot) if line and other and known and view.zero_shot else None
    if pairs is None:
        return Judged(claim, UNDECIDED, None, measured)
    paired = compare(pairs)
    estimate = Estimate(paired.value, paired.low, paired.high)
    return Judged(claim, verdict(estimate, claim.by / 100, above=True), estimate, measured, paired)


def _line(row: str, view: View) -> Line | None:
    return next((line for line in view.lines if line.row == row), None)


def _interval(j: Judged) -> str:
    assert j.estimate is not None
    e = j.estimate
    if j.paired is not None:
        values = [f"{100 * v:+.1f}" for v in (e.value, e.low, e.high)]
        return "{} ({} to {}) points".format(*values).replace("-", "−")  # noqa: RUF001 (a minus sign)
    return f"{e.value:.2f} ({e.low:.2f} to {e.high:.2f})".replace("-", "−")  # noqa: RUF001
