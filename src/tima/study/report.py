"""The page of one or more studies, made from their kept files alone: Markdown with figures beside it, and one HTML file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tima._files import write_text
from tima.errors import ResultError
from tima.study.accuracy import accuracy_sections
from tima.study.background import (
    cost_section,
    margin_section,
    provenance_section,
    setup_section,
    trouble_section,
    validation_section,
)
from tima.study.document import Document, Section
from tima.study.equal_table import equal_sections
from tima.study.fronts import standalone
from tima.study.lines import views_of
from tima.study.records import Store, read_store
from tima.study.render import html, markdown
from tima.study.searches import search_section
from tima.study.verdicts import verdict_section

TITLE = "Results"
LEAD = (
    "Every number on this page is computed from stored results: what each model answered on each image. Nothing is typed in, "
    "and nothing is measured again when the page is made."
)


def write_report(stores: Sequence[str | Path], page: str | Path, *, title: str = TITLE) -> tuple[Path, Path]:
    """Write `page` (Markdown), its figures into a folder of the same name, and the same as HTML beside it.

    Args:
        stores: kept studies (`records.py`), in the order in which they appear.

    Returns:
        The Markdown and the HTML file.

    Raises:
        ResultError: no store, or one that cannot be read.
    """
    if not stores:
        raise ResultError("No study was given. Name at least one: tima study nano-quick --report")
    page = Path(page)
    names = " ".join(Path(store).stem for store in stores)
    document = build([read_store(path) for path in stores], title, f"tima study {names} --report")
    web = page.with_suffix(".html")
    figures = page.with_suffix("")
    for section in document.sections:
        for figure in section.figures:
            write_text(figures / f"{figure.name}.svg", standalone(figure.svg))
    write_text(page, markdown(document, figures.name))
    write_text(web, html(document))
    return page, web


def build(stores: Sequence[Store], title: str, made_by: str) -> Document:
    """The report without a layout."""
    sections: list[Section] = []
    for store in stores:
        name, views = str(store.study["name"]), views_of(store)
        reference = str(store.study["reference"])
        found: list[Section | None] = [setup_section(store)]
        for number, view in enumerate(views):
            found += accuracy_sections(view, reference, f"{name}-{number}", store.study["rows"])
            found += equal_sections(view, store.study["rows"], store.study.get("equal_to", []))
        found.append(verdict_section(store.study.get("claims", []), views[0]) if views else validation_section(store))
        found += [
            search_section(store),
            cost_section(store),
            margin_section(store, views),
            trouble_section(store),
            provenance_section(store),
        ]
        sections.append(Section(f"Study {name}"))
        sections += [replace(section, level=3) for section in found if section is not None]
    return Document(title, [LEAD], sections, made_by)
