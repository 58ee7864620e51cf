"""Training methods: one file a method, one line here.

`tima` (default) and `tima-v1` are the project's subject, `tima-plus` is our own step beyond them, the others are what they are
compared with.
"""

from tima.errors import RecipeError
from tima.methods.advflyp import AdvFlyp
from tima.methods.agft import Agft
from tima.methods.base import Method, MethodConfig, Step
from tima.methods.comp_tga import CompTga
from tima.methods.fare import Fare
from tima.methods.ft_adv import FtAdv
from tima.methods.ft_clean import FtClean
from tima.methods.laat import Laat
from tima.methods.mart import Mart
from tima.methods.pmg_aft import PmgAft
from tima.methods.tecoa import TeCoA
from tima.methods.tga_zsr import TgaZsr
from tima.methods.tima import Tima
from tima.methods.tima_plus import TimaPlus
from tima.methods.tima_v1 import TimaV1
from tima.methods.trades import Trades
from tima.methods.zero_shot import ZeroShot

_ALL = (
    *(Tima, TimaV1, TimaPlus, TeCoA, Fare, PmgAft, Laat, TgaZsr, CompTga),
    *(AdvFlyp, Agft, Trades, Mart, FtAdv, FtClean, ZeroShot),
)
METHODS: dict[str, type[Method]] = {m.name: m for m in _ALL}


def find_method(name: str) -> type[Method]:
    """A method by name.

    Raises:
        RecipeError: no method of that name.
    """
    if name not in METHODS:
        raise RecipeError(f"There is no method '{name}'. Known are: {', '.join(METHODS)}.")
    return METHODS[name]


__all__ = ["METHODS", "Method", "MethodConfig", "Step", "find_method"]
