"""A report before it has a layout: sections of sentences, tables and figures. Rendered as Markdown and as HTML."""

from dataclasses import dataclass, field

from tima.report.tables import Table


@dataclass(frozen=True)
class Figure:
    """Inline SVG. `name`: of its file where the layout needs one; `alt`: what it shows, in words."""

    title: str
    svg: str
    name: str
    alt: str


@dataclass(frozen=True)
class Section:
    """`folded` tables are shown when asked for."""

    title: str
    level: int = 2
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """`made_by`: the command that makes it again."""

    title: str
    lead: list[str]
    sections: list[Section]
    made_by: str
