"""Character edits of a class name: swap two neighbours, insert, delete or substitute one letter.

The character-level attacker of Belinkov & Bisk 2018, arXiv 1711.02173, and Pruthi et al. 2019, arXiv 1905.11268. Each edit is
one step of Damerau-Levenshtein distance, so that `budget` edits stay within distance `budget`.
"""

import string
from collections.abc import Sequence

import numpy as np

from tima.errors import RecipeError

EDITS = ("swap", "insert", "delete", "substitute")


def check_edits(edits: Sequence[str]) -> tuple[str, ...]:
    """Raise `RecipeError` for an edit that does not exist, or none."""
    if unknown := [e for e in edits if e not in EDITS]:
        raise RecipeError(f"There is no edit {', '.join(unknown)}. Known are: {', '.join(EDITS)}.")
    if not edits:
        raise RecipeError(f"No edit was named. Known are: {', '.join(EDITS)}.")
    return tuple(edits)


def edit_once(text: str, rng: np.random.Generator, edits: Sequence[str] = EDITS) -> str:
    """One random edit, or the text itself where the edit drawn has no place (deleting from one letter)."""
    kind = edits[int(rng.integers(len(edits)))]
    letter = string.ascii_lowercase[int(rng.integers(26))]
    if kind == "insert":
        at = int(rng.integers(len(text) + 1))
        return text[:at] + letter + text[at:]
    if kind == "swap":
        places = [i for i in range(len(text) - 1) if text[i] != text[i + 1]]
        if not places:
            return text
        at = places[int(rng.integers(len(places)))]
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    at = int(rng.integers(len(text)))
    if kind == "delete":
        return text[:at] + text[at + 1 :] if len(text) > 1 else text
    return text[:at] + letter + text[at + 1 :]


def acceptable(candidate: str, name: str, others: Sequence[str]) -> bool:
    """Not blank, no longer the name itself, and not the name of another class: that would be a wrong label, not a typo."""
    key = " ".join(candidate.lower().split())
    return bool(key) and key != " ".join(name.lower().split()) and key not in {" ".join(o.lower().split()) for o in others}


def variants(
    name: str,
    budget: int,
    number: int,
    rng: np.random.Generator,
    *,
    edits: Sequence[str] = EDITS,
    others: Sequence[str] = (),
) -> list[str]:
    """Up to `number` different names, each `budget` random edits (some may undo each other) away from `name`."""
    found: dict[str, None] = {}
    for _ in range(20 * number):  # short names have few variants
        if len(found) == number:
            break
        candidate = name
        for _ in range(budget):
            candidate = edit_once(candidate, rng, edits)
        if acceptable(candidate, name, others):
            found.setdefault(candidate)
    return list(found)
