"""What the searches of a study chose, and how far that can be trusted."""

from tima.report.tables import Table
from tima.report.words import listing
from tima.study.background import title_of
from tima.study.document import Section
from tima.study.jobs import settings_text
from tima.study.records import Store
from tima.study.state import score


def search_section(store: Store) -> Section | None:
    """Winners, and every trial folded away."""
    if not store.searches:
        return None
    winners, every = [], []
    for name, search in store.searches.items():
        won = search.winner
        best = "" if won is None else f"{100 * (search.scores[won] or 0):.1f}"
        chosen = "none: every trial failed" if won is None else settings_text(search.points[won])
        winners.append([title_of(store, name), str(len(search.points)), chosen, best])
        for point, reached, note, key in zip(search.points, search.scores, search.notes, search.keys, strict=True):
            shown = note if reached is None else f"{100 * reached:.1f}"
            every.append([title_of(store, name), settings_text(point), shown, key])
    note = "Score: in percent, on validation alone. It is no result and not comparable with the tables above."
    return Section(
        "What the searches chose",
        text=[said for said in (_ends(store), _original_score(store)) if said],
        tables=[Table("Winners", ["method", "trials", "chosen", "score"], winners, note)],
        folded=[Table("Every trial", ["method", "settings", "score", "run"], every)],
    )


def _ends(store: Store) -> str:
    """Whose learning rate, or other number that the grid orders, lies at an end of what was tried."""
    ends: dict[tuple[str, str], list[str]] = {}
    for name, search in store.searches.items():
        for key, value in search.points[search.winner].items() if search.winner is not None else ():
            tried = [point[key] for point in search.points]
            if not all(isinstance(one, (int, float)) for one in tried) or len(set(tried)) < 3:  # of two, each is an end
                continue
            for end, word in ((min(tried), "smallest"), (max(tried), "largest")):
                if value == end:
                    ends.setdefault((key.split(".")[-1], word), []).append(title_of(store, name))
    parts = [f"the {word} {key} for {listing(names)}" for (key, word), names in ends.items()]
    return f"Winners at an end of what was tried, beyond which a better one may lie: {'; '.join(parts)}." if parts else ""


def _original_score(store: Store) -> str:
    """What the rule makes of a model that withstands nothing."""
    rule = str(store.study["search"].get("rule", "mean"))
    originals = [r for r in store.runs if store.study["rows"][r.row]["method"] == "zero-shot" and r.summary.get("val")]
    won = [float(s.scores[s.winner] or 0) for s in store.searches.values() if s.winner is not None]
    if not originals or not won:
        return ""
    value = score(originals[0].summary, rule)
    return (
        f"The original itself scores {100 * value:.1f} by this rule, more than {sum(value > one for one in won)} of {len(won)} "
        "winners: where few images withstand the attack the rule favours what stays near the original."
        if any(value > one for one in won)
        else ""
    )
