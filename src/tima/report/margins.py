"""The two observations about logit margins that TIMA's AAAI version argues from, as a table.

How margins go with the likeness of class texts, and how evenly an attack lowers them. Shapes: `N` images, `E` eps.
"""

from tima.analysis import Offset, margin_offset
from tima.errors import ResultError
from tima.report.comparison import Comparison
from tima.report.runs import Run, Stored
from tima.report.tables import Table

NOTE = (
    "Margin: the label's logit minus the largest other one. Correlation: Pearson's, of an image's margin with the cosine of "
    "its class text to the nearest other one; below 0, look-alike classes keep smaller margins. Fall: how much lower the "
    "margin is at the largest eps than at the smallest, mean ± standard deviation over the images that withstand both. "
    "An attack stops at an image once it is broken, so broken images gather just below 0."
)


def margin_table(comparison: Comparison, pairs: list[tuple[Run, Stored]]) -> Table | None:
    """Median margins, correlations and falls; None when no result has margins."""
    rows = []
    for run, stored in pairs:
        record = stored.record
        by_eps = {robust.eps: robust for robust in record.robust}
        found = [record.clean.margins, *((by_eps[eps].margins if eps in by_eps else None) for eps in comparison.eps)]
        if any(margins is not None for margins in found):
            rows.append([run.name, "median margin", *("" if m is None else f"{m.median:.2f}" for m in found), _fall(stored)])
        known = [by_eps[eps].margin_similarity if eps in by_eps else None for eps in comparison.eps]
        correlations = [record.margin_similarity, *known]
        if any(value is not None for value in correlations):
            rows.append([run.name, "correlation", *("" if c is None else f"{c:+.2f}" for c in correlations), ""])
    return Table("Margins", ["model", "", *comparison.columns, "fall"], rows, NOTE) if rows else None


def _fall(stored: Stored) -> str:
    offset = stable_offset(stored)
    return "" if offset is None else f"{offset.mean:.2f} ± {offset.deviation:.2f} (n = {offset.n:,})"


def stable_offset(stored: Stored) -> Offset | None:
    """The fall from the smallest eps to the largest, over the images that withstand both; None where it is not stored."""
    from tima.results import load_sidecar

    if len(stored.record.robust) < 2:
        return None
    try:
        tensors = load_sidecar(stored.path)
        margin_EN, stands_N = tensors["margin_EN"], tensors["robust_EN"][len(stored.record.robust) - 1].bool()
    except (ResultError, KeyError):
        return None  # schema 1, or the page is made where only the JSON files are
    return margin_offset(margin_EN[1][stands_N], margin_EN[len(stored.record.robust)][stands_N])
