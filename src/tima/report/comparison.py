"""The comparison itself, free of any layout: blocks (averages, data sets) x runs x (clean, every eps).

Only results of one protocol (name, version and content hash) meet in one `Comparison`. All values are fractions in [0, 1].
`compare.py` makes these from runs, `blocks.py` fills a data set's block, `averages.py` those over several.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tima.eps import format_eps
from tima.report.runs import Run

if TYPE_CHECKING:
    from tima.results import Health

CLEAN = "clean"
MISSING, UNFINISHED = "missing", "unfinished"


@dataclass(frozen=True)
class Cell:
    """One number with its 95 % interval, or the reason why there is none."""

    value: float | None = None
    low: float = 0.0
    high: float = 0.0
    correct: int = 0
    n: int = 0
    note: str = ""
    best: bool = False
    health: "Health | None" = None

    @property
    def suspicious(self) -> bool:
        return self.health is not None and self.health.verdict == "suspicious"


@dataclass(frozen=True)
class Block:
    """One data set or average: a row of cells for each run, in the order of the runs and of `Comparison.columns`."""

    title: str
    about: str
    cells: list[list[Cell]]
    warnings: list[str] = field(default_factory=list)
    average_of: tuple[str, ...] = ()
    train_domain: bool = False
    chance: float | None = None
    row_notes: list[str] = field(default_factory=list)

    def column(self, index: int) -> list[Cell]:
        return [row[index] for row in self.cells]


@dataclass(frozen=True)
class Comparison:
    """Everything measured under one protocol; where `rows` says so, one run under several."""

    protocol: dict[str, Any]
    runs: list[Run]
    eps: list[float]
    averages: list[Block]
    data_sets: list[Block]
    rows: str = "model"  # what a row is

    @property
    def columns(self) -> list[str]:
        return [CLEAN, *(size_text(eps, self.norm) for eps in self.eps)]

    @property
    def norm(self) -> str:
        return str(self.protocol.get("norm", "l_inf"))

    @property
    def blocks(self) -> list[Block]:
        return [*self.averages, *self.data_sets]

    @property
    def label(self) -> str:
        return protocol_label(self.protocol)

    @property
    def headline_column(self) -> int:
        """The column to put into words: the runs' training eps if it was evaluated, else the middle one."""
        trained = [run.train_eps for run in self.runs if run.train_eps in self.columns]
        if trained:
            return self.columns.index(max(trained, key=trained.count))
        return (len(self.eps) + 1) // 2

    def best_block(self) -> Block:
        return self.blocks[0]


def protocol_label(protocol: dict[str, Any]) -> str:
    """`demo@1`."""
    return f"{protocol.get('name', 'unnamed')}@{protocol.get('version', '?')}"


def size_text(eps: float, norm: str) -> str:
    """A perturbation size as people write it: `4/255` of the pixel range for l_inf, a plain length for l_2."""
    return format_eps(eps) if norm == "l_inf" else f"{eps:.4g}"


def protocol_key(protocol: dict[str, Any]) -> tuple[str, str]:
    """Results compare only if these are equal: name with version, and content hash."""
    return protocol_label(protocol), str(protocol.get("sha256", ""))
