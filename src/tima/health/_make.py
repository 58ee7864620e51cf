"""Indicators from what was seen: a count of images, or a value with a limit."""

from math import isfinite

from tima.health._chance import RARE, beyond_chance, share_limit
from tima.results import Indicator


def from_count(
    name: str, count: int, n: int, fired_note: str, *, rate: float = RARE, none: str = "no image to look at"
) -> Indicator:
    """Fires when `count` of `n` images are more than chance explains. `fired_note` says what that means."""
    if n == 0:
        return not_measured(name, none)
    fired = beyond_chance(count, n, rate)
    seen = f"{count} of {n} images"
    return Indicator(
        name=name, value=count / n, limit=share_limit(n, rate), fired=fired, note=f"{fired_note} ({seen})" if fired else seen
    )


def from_value(name: str, value: float, limit: float, fired_note: str, note: str = "") -> Indicator:
    """Fires when `value` exceeds `limit`."""
    fired = not value <= limit  # NaN fires
    shown = value if isfinite(value) else None  # JSON has no NaN
    return Indicator(name=name, value=shown, limit=limit, fired=fired, note=fired_note if fired else note)


def not_measured(name: str, why: str) -> Indicator:
    """Nothing to say, which is no reason for suspicion."""
    return Indicator(name=name, value=None, limit=None, fired=False, note=f"not measured: {why}")
