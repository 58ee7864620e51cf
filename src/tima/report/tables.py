"""A table as plain rows of text: what the page's collapsed parts show."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """`rows` under `columns`, the first cell of a row names it. `alarms`: rows to colour as a warning."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    alarms: frozenset[int] = field(default_factory=frozenset)
