"""What a server is started with."""

from dataclasses import dataclass, field
from pathlib import Path

from tima.serve.limits import Limits


@dataclass(frozen=True)
class Settings:
    """Which models and runs to show.

    Attributes:
        models: names as `load_model` takes them; `original` is what the runs started from. None: the original and the
            trained models among the runs.
        runs: folder that holds run folders, directly or one level deeper; None shows no runs.
        limits: what a request may cost.
        samples: offer a few pictures of the embedded sets.
        names: host names that requests may come for, besides IP addresses; None takes all.
    """

    models: list[str] | None = None
    runs: Path | None = None
    limits: Limits = field(default_factory=Limits)
    samples: bool = True
    names: tuple[str, ...] | None = None
