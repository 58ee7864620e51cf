"""Training methods: one file a method, one line here.

`tima` (default) and `tima-v1` are the project's own subject, the others are what they are compared with.
"""

from tima.errors import RecipeError
from tima.methods.base import Method, MethodConfig, Step
from tima.methods.ft_clean import FtClean
from tima.methods.tecoa import TeCoA
from tima.methods.tima import Tima
from tima.methods.tima_v1 import TimaV1

METHODS: dict[str, type[Method]] = {m.name: m for m in (Tima, TimaV1, TeCoA, FtClean)}


def find_method(name: str) -> type[Method]:
    """A method by name.

    Raises:
        RecipeError: no method of that name.
    """
    if name not in METHODS:
        raise RecipeError(f"There is no method '{name}'. Known are: {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "Method", "MethodConfig", "Step", "find_method"]
