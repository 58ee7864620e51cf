"""What chance alone explains: an indicator fires only beyond that, also on a probe of a few images.

Clopper & Pearson style reasoning on counts: `count` of `n` images show a sign, and a sound attack shows it on each with
probability `rate` at most. It fires where so many or more would be seen with probability below `ALPHA`.
"""

from scipy.stats import binom

ALPHA = 1e-3  # of one indicator. Sixteen of them: a sound evaluation is called suspicious in at most 1.6 % of cases
RARE = 0.02  # our choice: a sound attack may miss so many of the images that something weaker breaks by luck. A gradient
# attack of few steps does miss some, a masked gradient misses many (Carlini et al. 2019, arXiv 1902.06705, section 4)


def most_by_chance(n: int, rate: float) -> int:
    """Largest count that chance explains: `P(count > most) <= ALPHA` for `n` draws of probability `rate`."""
    return int(binom.ppf(1 - ALPHA, n, rate)) if n > 0 else 0


def beyond_chance(count: int, n: int, rate: float = RARE) -> bool:
    """Do more images show the sign than chance explains?"""
    return count > most_by_chance(n, rate)


def share_limit(n: int, rate: float = RARE) -> float:
    """The largest share of `n` images that chance explains; 1 where no count would mean anything."""
    return most_by_chance(n, rate) / n if n > 0 else 1.0
