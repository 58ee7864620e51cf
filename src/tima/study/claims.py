"""What a paper claims, as something that intervals can decide: holds, does not, undecided.

Three kinds, each with its rule:

- `difference`: accuracy of `row` minus that of `than`, averaged over the columns `at` and the zero-shot sets, in points.
  Holds when its whole 95 % interval lies above `by`, does not when it lies below, else undecided. A negative `by` asks for
  no more than so much loss.
- `offset`: how evenly an attack lowers the logit margins of `row`: standard deviation over mean of the fall from the
  smallest eps to the one in `to`. Holds when the interval of that ratio lies below `limit`, does not when above.
- `correlation`: Pearson's correlation of an image's margin with its class text's cosine to the nearest other one, pooled
  over the zero-shot sets. Holds when its interval lies below 0, does not when above.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tima.stats import Z95

HOLDS, DOES_NOT, UNDECIDED = "holds", "does not", "undecided"
FEW = 10  # images below which no spread is looked at


class _Claim(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    claim: str = Field(description="the sentence, in our words")
    source: str = Field(description="where the paper says so")
    row: str

    def named_rows(self) -> list[str]:
        return [self.row, than] if (than := getattr(self, "than", None)) else [self.row]


class DifferenceClaim(_Claim):
    """`row` is better than `than`."""

    kind: Literal["difference"]
    than: str
    at: list[str] = Field(min_length=1, description="columns: clean, 4/255, ...")
    by: float = Field(default=0.0, description="percentage points")


class OffsetClaim(_Claim):
    """Margins fall evenly."""

    kind: Literal["offset"]
    to: str = Field(description="column of the larger eps")
    limit: float = Field(default=0.5, gt=0, description="of standard deviation over mean")


class CorrelationClaim(_Claim):
    """Look-alike classes keep smaller margins."""

    kind: Literal["correlation"]
    at: str = Field(default="clean", description="column")


Claim = Annotated[DifferenceClaim | OffsetClaim | CorrelationClaim, Field(discriminator="kind")]


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, or nothing to decide by."""

    value: float
    low: float
    high: float


def verdict(estimate: Estimate | None, limit: float, above: bool) -> str:
    """Does the estimate lie above (below) the limit with its whole interval?"""
    if estimate is None:
        return UNDECIDED
    over, under = estimate.low > limit, estimate.high < limit
    good, bad = (over, under) if above else (under, over)
    return HOLDS if good else DOES_NOT if bad else UNDECIDED


def pool(offsets: Sequence[tuple[float, float, int]]) -> tuple[float, float, int] | None:
    """One (mean, standard deviation within sets, images) from those of several sets; None below two images in every set."""
    kept = [(mean, deviation, n) for mean, deviation, n in offsets if n > 1]
    n = sum(count for _, _, count in kept)
    if n == 0:
        return None
    mean = sum(m * count for m, _, count in kept) / n
    deviation = math.sqrt(sum(d * d * (count - 1) for _, d, count in kept) / sum(count - 1 for _, _, count in kept))
    return mean, deviation, n


def evenness(offsets: Sequence[tuple[float, float, int]]) -> Estimate | None:
    """Standard deviation over mean of falls, pooled over sets of (mean, deviation, images).

    The interval is the normal one of a coefficient of variation c over n values, `c sqrt(1 / (2 (n - 1)) + c^2 / n)`.
    None below ten images, or where margins do not fall at all.
    """
    pooled = pool(offsets)
    if pooled is None or pooled[2] < FEW or pooled[0] <= 0:
        return None
    mean, deviation, n = pooled
    c = deviation / mean
    half = Z95 * c * math.sqrt(1 / (2 * (n - 1)) + c * c / n)
    return Estimate(c, max(0.0, c - half), c + half)


def pooled_correlation(correlations: Sequence[tuple[float, int]]) -> Estimate | None:
    """One correlation from those of several sets: the mean of Fisher's z, each weighted by its classes - 3.

    The cosine to the nearest class text is one number a class, so classes and not images count as independent.

    Args:
        correlations: (correlation, classes) of each set. Sets of fewer than four classes say nothing.
    """
    kept = [(max(-0.999999, min(0.999999, r)), classes - 3) for r, classes in correlations if classes > 3]
    if not kept:
        return None
    weight = sum(w for _, w in kept)
    z, half = sum(w * math.atanh(r) for r, w in kept) / weight, Z95 / math.sqrt(weight)
    return Estimate(math.tanh(z), math.tanh(z - half), math.tanh(z + half))
