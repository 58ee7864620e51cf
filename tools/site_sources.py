"""Hook of the site: pages link to files of the repository, so these become pages of the site too.

`docs/*.md` are written for readers of the repository: `../src/tima/train.py` leads to the file there. In the site that link
leads to a page that shows the file, made here, so that the built site is whole and every link in it is checked.
`CONTRIBUTING.md` becomes the page `contributing.md`. A link to a file that is not there is left as it is and fails the build.
"""

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
LINK = re.compile(r"(?<!!)(\[[^\]]*\])\(([^)\s:]+?)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
LANGUAGE = {".py": "python", ".yaml": "yaml", ".json": "json", ".css": "css", ".js": "js"}


def on_files(files: Any, config: Any) -> Any:
    """Add CONTRIBUTING.md and every repository file that some page links to."""
    from mkdocs.structure.files import File

    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, PAGES["CONTRIBUTING.md"], content=rewrite(contributing, ROOT, "contributing.md")))
    texts = [(ROOT, contributing)]
    for path in sorted(Path(config.docs_dir).glob("**/*.md")):
        texts.append((path.parent, path.read_text(encoding="utf-8")))
    for target in sorted({t for folder, text in texts for t in outside(text, folder)}):
        files.append(File.generated(config, page_of(target), content=shown(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Lead links out of `docs/` to the pages made above."""
    source = Path(config.docs_dir) / page.file.src_uri
    return rewrite(markdown, source.parent, page.file.src_uri) if source.is_file() else markdown


def outside(text: str, folder: Path) -> set[str]:
    """Paths from the root of the linked files that are no pages of `docs/` and no page by another name."""
    return {found for match in LINK.finditer(without_code(text)) if (found := repository_path(match[2], folder))} - set(PAGES)


def repository_path(link: str, folder: Path) -> str | None:
    """The path from the root if the link leads to an existing file or folder outside `docs/`."""
    target = (folder / link).resolve()
    if not target.exists() or not target.is_relative_to(ROOT) or target.is_relative_to(ROOT / "docs"):
        return None
    return target.relative_to(ROOT).as_posix()


def page_of(path: str) -> str:
    """Where a repository file lies in the site."""
    return PAGES.get(path, f"source/{path}.md")


def rewrite(text: str, folder: Path, page: str) -> str:
    """The text with every link as seen from `page` of the site."""

    def lead(match: re.Match[str]) -> str:
        target = (folder / match[2]).resolve()
        path = repository_path(match[2], folder)
        if path is not None:
            to = page_of(path)
        elif target.exists() and target.is_relative_to(ROOT / "docs"):
            to = target.relative_to(ROOT / "docs").as_posix()
        else:
            return match[0]
        anchor = match[3] or ""
        return f"{match[1]}({os.path.relpath(to, os.path.dirname(page) or '.')}{anchor})"

    parts = FENCE.split(text)  # every second one is code
    return "".join(part if number % 2 else LINK.sub(lead, part) for number, part in enumerate(parts))


def without_code(text: str) -> str:
    return FENCE.sub("", text)


def shown(path: str) -> str:
    """A page that shows a file, or names what lies in a folder. Left out of the search: it would drown the pages."""
    target = ROOT / path
    head = f"---\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n"
    if target.is_dir():
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in target.iterdir() if p.name[0] not in "._")
        return head + "".join(f"- `{name}`\n" for name in names)
    text = target.read_text(encoding="utf-8")
    language = LANGUAGE.get(target.suffix, "text")
    return f"{head}````{language}\n{text.rstrip()}\n````\n"
