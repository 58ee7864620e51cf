"""Perturbation sizes. eps is always in [0, 1] pixel units inside the library; people write `4/255`."""

import math
from fractions import Fraction

from tima.errors import EpsError

Number = float | int | str


def parse_eps(value: Number) -> float:
    """Read one eps: `"4/255"`, `"0.0157"` or a float in (0, 1).

    Args:
        value: text or number, in units of the full pixel range [0, 1].

    Returns:
        eps as a float in [0, 1).

    Raises:
        EpsError: not a number, negative, or so large that 255ths were probably meant.
    """
    text = str(value).strip()
    above, slash, below = text.partition("/")
    try:
        eps = float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise EpsError(f"eps {text!r} is not a number. Write it as '4/255' or '0.0157'.") from None
    if not eps >= 0 or math.isinf(eps):  # the first also catches NaN
        raise EpsError(f"eps {text} is negative, infinite or not a number; it is a distance in pixel units of [0, 1].")
    if eps >= 1:
        advice = "" if slash else f" If you meant {text} of 255 grey levels, write '{text}/255'."
        raise EpsError(
            f"eps {text} is not below 1, and eps is measured in pixel units of [0, 1], where 1 is the whole range from "
            f"black to white.{advice}"
        )
    return eps + 0.0  # -0.0 becomes 0.0


def parse_eps_list(value: Number | list[Number]) -> list[float]:
    """Read several eps, `"1/255,4/255"` or a list, sorted from small to large without repeats."""
    parts: list[Number] = list(value) if isinstance(value, (list, tuple)) else [p for p in str(value).split(",") if p.strip()]
    if not parts:
        raise EpsError("No eps was given. Write one or more, for example '1/255,4/255'.")
    return sorted({parse_eps(part) for part in parts})


def format_eps(eps: float) -> str:
    """`0.01568...` as `4/255`; anything that is not a simple 255th as a short decimal. `parse_eps` reads either."""
    levels = eps * 255
    for digits in (0, 1, 2):
        if abs(levels - round(levels, digits)) <= 1e-6 * abs(levels):  # as far as float32 is off
            return f"{round(levels, digits):g}/255"
    return f"{eps:.6g}"


def eps_text(eps: float) -> str:
    """`4/255` where that is exactly this number, else all digits: reading it gives the same eps again."""
    text = format_eps(eps)
    return text if "." not in text and float(Fraction(text)) == eps else repr(eps)
