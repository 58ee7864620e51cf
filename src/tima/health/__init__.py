"""Attack health: can the attack behind a robust accuracy be believed? One file an indicator; `docs/health.md` explains all."""

from tima.attacks.counting import GradientStats
from tima.health._probe import Memory
from tima.health.assess import assess

__all__ = ["GradientStats", "Memory", "assess"]
