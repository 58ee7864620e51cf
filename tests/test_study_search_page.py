"""What the page says of a search: where a winner lies at an end of its grid, and what its rule makes of the original."""

from typing import Any

import pytest

from tima.study.records import KeptRun, KeptSearch, Store
from tima.study.searches import search_section


def search(points: list[dict[str, Any]], scores: list[float | None], winner: int | None) -> KeptSearch:
    keys = [str(number) for number in range(len(points))]
    return KeptSearch(points=points, keys=keys, scores=scores, notes=[""] * len(points), winner=winner)


def store(searches: dict[str, KeptSearch], original: tuple[float, float] | None = None, rule: str = "mean") -> Store:
    rows: dict[str, Any] = {name: {"method": "tecoa", "title": name.upper()} for name in searches}
    runs = []
    if original is not None:
        rows["original"] = {"method": "zero-shot"}
        part = {"clean_accuracy": original[0], "robust_accuracy": original[1]}
        summary = {"val": {"seen": part, "unseen": part}}
        words: dict[str, Any] = {"eps": "4/255", "data": "toy", "seed": 0, "state": "finished", "recipe": {}, "results": []}
        runs = [KeptRun(row="original", key="o", summary=summary, **words)]
    study = {"name": "toy", "rows": rows, "search": {"rule": rule}}
    return Store(study=study, headline=[], protocols={}, asked={}, headline_only=[], searches=searches, runs=runs)


def said(*args: Any, **words: Any) -> list[str]:
    section = search_section(store(*args, **words))
    assert section is not None
    return section.text


def test_winners_at_an_end_are_named() -> None:
    lr = [{"lr": 0.0001}, {"lr": 0.001}, {"lr": 0.01}]
    weight = [{"lr": lr, "method_config.w": w} for lr in (0.001, 0.01) for w in (0.3, 1.0, 3.0)]
    found = said(
        {
            "low": search(lr, [0.3, 0.2, 0.1], 0),
            "middle": search(lr, [0.1, 0.2, 0.1], 1),
            "high": search(lr, [0.1, 0.2, 0.3], 2),
            "both": search(weight, [0.1, 0.1, 0.3, 0.1, 0.1, 0.1], 2),
            "lost": search(lr, [None] * 3, None),
            "words": search([{"text_tower": t} for t in ("full", "projection", "none")], [0.1, 0.2, 0.1], 1),
            "lists": search([{"templates": ["{c}"] * n} for n in (1, 2, 3)], [0.1, 0.2, 0.1], 1),
            "flags": search([{"flag": flag} for flag in (False, True)], [0.1, 0.2], 1),
        }
    )
    (sentence,) = found
    assert sentence.endswith(": the smallest lr for LOW; the largest lr for HIGH; the largest w for BOTH.")
    assert said({"middle": search(lr, [0.1, 0.2, 0.1], 1)}) == []


@pytest.mark.parametrize(
    ("rule", "shown"), [("mean", "The original itself scores 30.0 by this rule, more than 1 of 2"), ("robust", "")]
)
def test_a_rule_that_favours_the_original_is_shown_to(rule: str, shown: str) -> None:
    lr = [{"lr": 1}, {"lr": 2}, {"lr": 3}]
    searches = {"a": search(lr, [0, 0.4, 0], 1), "b": search(lr, [0, 0.2, 0], 1)}
    found = said(searches, original=(0.6, 0.0), rule=rule)
    assert [sentence[: len(shown)] for sentence in found] == ([shown] if shown else [])
    assert said(searches) == []
