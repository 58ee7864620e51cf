"""The site: it builds without a broken link, and loads nothing from elsewhere. Needs the extra `docs`."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import site_sources  # noqa: E402

needs_mkdocs = pytest.mark.skipif(
    find_spec("material") is None or find_spec("mkdocstrings") is None, reason='needs pip install "tima[docs]"'
)


def build(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(out), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


class Loads(HTMLParser):
    """Everything that a browser fetches by itself when it opens a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = dict(attrs)
        fetched = tag == "link" and set((a.get("rel") or "").split()) & {"stylesheet", "icon", "preload", "preconnect"}
        address = a.get("href") if fetched else a.get("src") if tag != "a" else None
        if address:
            self.found.append(address)


@needs_mkdocs
def test_the_site_builds_and_is_whole(tmp_path: Path) -> None:
    done = build(tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {"index.html", "report.html", "api.html", "contributing.html"} <= {page.name for page in pages}
    for page in pages:
        if page.name == "404.html":  # may be shown at any address, so its own are from the server's root
            continue
        for address in Loads(page.read_text(encoding="utf-8")).found:
            assert not re.match(r"(https?:)?//", address), f"{page.name} fetches {address}"
            if not address.startswith("data:"):
                assert (page.parent / address.split("?")[0].split("#")[0]).exists(), f"{page.name}: {address} is not there"
    for style in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert all(f'id="tima.{name}"' in api for name in ("models.ZeroShotClassifier", "evaluate.evaluate", "report.report"))
    assert 'id="tima.errors.TimaError"' in api and "Path of the page." in api, "docstrings are on the page"


@needs_mkdocs
@pytest.mark.slow
def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    import shutil

    for name in ("mkdocs.yml", "CONTRIBUTING.md", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "src", "tools", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "assets", "demo"))
    shutil.copytree(ROOT / "docs" / "demo", tmp_path / "docs" / "demo")
    page = tmp_path / "docs" / "index.md"
    page.write_text(page.read_text() + "\n[gone](gone.md)\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "gone.md" in done.stdout + done.stderr


def test_links_to_repository_files_lead_to_pages_that_show_them() -> None:
    text = "See [it](../src/tima/eps.py), [here](report.md#print), [how](../CONTRIBUTING.md), [web](https://x.org/a).\n"
    code = "```\n[not](../src/tima/eps.py)\n```\n"
    docs = ROOT / "docs"
    assert site_sources.rewrite(text + code, docs, "a.md") == (
        "See [it](source/src/tima/eps.py.md), [here](report.md#print), [how](contributing.md), [web](https://x.org/a).\n" + code
    )
    assert site_sources.outside(text + code, docs) == {"src/tima/eps.py"}
    # CONTRIBUTING.md lies a floor higher and becomes a page beside the others
    assert site_sources.rewrite("[m](docs/method.md#x) [p](src/tima/eps.py)", ROOT, "contributing.md") == (
        "[m](method.md#x) [p](source/src/tima/eps.py.md)"
    )
    assert site_sources.rewrite("[gone](../src/gone.py)", docs, "a.md") == "[gone](../src/gone.py)", "the build must see it"


def test_a_shown_file_is_whole() -> None:
    page = site_sources.shown("src/tima/eps.py")
    assert (ROOT / "src/tima/eps.py").read_text().rstrip() in page and "`eps.py`" in site_sources.shown("src/tima")
