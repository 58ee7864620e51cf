"""A document as Markdown and as one HTML page without script or network."""

from importlib.resources import files
from typing import Any

from tima.report.tables import Table
from tima.study.document import Document


def markdown(document: Document, figures: str) -> str:
    """Markdown for GitHub and MkDocs; `figures`: folder of the SVG files, relative to the page."""
    lines = [f"# {document.title}", "", f"<!-- made by `{document.made_by}` from stored results; do not edit by hand -->", ""]
    for text in document.lead:
        lines += [text, ""]
    for section in document.sections:
        lines += [f"{'#' * section.level} {section.title}", ""]
        for text in section.text:
            lines += [_escape(text), ""]
        for table in section.tables:
            lines += [f"**{_escape(table.title)}**", "", *_table(table), ""]
        for figure in section.figures:
            lines += [f"![{_escape(figure.title)}]({figures}/{figure.name}.svg)", ""]
        for table in section.folded:
            lines += ["<details>", f"<summary>{_escape(table.title)}</summary>", "", *_table(table), "", "</details>", ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(table: Table) -> list[str]:
    lines = [f"| {' | '.join(map(_escape, table.columns))} |", f"|{'---|' * len(table.columns)}"]
    lines += [f"| {' | '.join(map(_escape, row))} |" for row in table.rows]
    return [*lines, "", _escape(table.note)] if table.note else lines


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("\n", " ")


def html(document: Document) -> str:
    """One self-contained page in the report's style."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["safe_svg"] = Markup
    style = (files("tima.report") / "page.css").read_text(encoding="utf-8")
    template = (files("tima.study") / "page.html.jinja").read_text(encoding="utf-8")
    values: dict[str, Any] = {"document": document, "style": Markup(style)}
    return environment.from_string(template).render(values)
