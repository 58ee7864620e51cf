"""The page's files and the container's, read as text: contrast, names for everything, nothing from elsewhere, instructions."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "src" / "tima" / "serve" / "static"
CSS = (STATIC / "app.css").read_text(encoding="utf-8")
FILES = sorted(STATIC.iterdir())


# colours -----------------------------------------------------------------------------------------------------------


def colours(theme: int) -> dict[str, str]:
    """Every colour variable in light (0) or dark (1)."""
    return {name: pair[theme] for name, *pair in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", CSS)}


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_formula_by_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_and_signs_stand_out(theme: int) -> None:
    found = colours(theme)
    assert len(found) >= 20
    texts = [("ink", ground) for ground in ("paper", "card", "tint", "track")]
    texts += [("ink-2", ground) for ground in ("paper", "card", "tint", "track")]
    texts += [("accent", "paper"), ("accent", "card"), ("accent", "tint"), ("on-accent", "accent")]
    texts += [("good", "good-bg"), ("bad", "bad-bg"), ("bad", "card")]
    signs = [("edge", "card"), ("edge", "paper"), ("accent", "card")]  # borders of fields, focus rings
    signs += [(f"s{i}", "card") for i in range(7)]
    assert not [(a, b, contrast(found[a], found[b])) for a, b in texts if contrast(found[a], found[b]) < 4.5]
    assert not [(a, b, contrast(found[a], found[b])) for a, b in signs if contrast(found[a], found[b]) < 3]


# names and sources -------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[str] = []
        self.wrapped: set[int] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "label" in self.inside:
            self.wrapped.add(len(self.tags))
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "img", "br"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass


@pytest.fixture(scope="module")
def page() -> Page:
    parser = Page()
    parser.feed((STATIC / "index.html").read_text(encoding="utf-8"))
    return parser


def test_every_field_has_a_label_and_every_picture_an_alternative(page: Page) -> None:
    labelled = {attrs.get("for") for tag, attrs in page.tags if tag == "label"}
    for number, (tag, attrs) in enumerate(page.tags):
        if tag in ("input", "select", "textarea"):
            assert number in page.wrapped or attrs.get("id") in labelled or attrs.get("aria-label"), attrs
        if tag == "img":
            assert "alt" in attrs
    roles = {attrs.get("role") for _, attrs in page.tags}
    assert {"status", "alert"} <= roles and dict(page.tags)["html"]["lang"] == "en"
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    pointed = [attrs.get(key) for _, attrs in page.tags for key in ("aria-labelledby", "aria-describedby", "for")]
    assert not set(filter(None, pointed)) - set(ids)


def test_scripts_name_only_ids_that_are_there(page: Page) -> None:
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for file in FILES:
        if file.suffix == ".js":
            named = set(re.findall(r'byId\("([\w-]+)"\)', file.read_text(encoding="utf-8")))
            assert not named - ids, file.name


def test_nothing_comes_from_elsewhere_and_nothing_is_inline() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        addresses = set(re.findall(r"https?://[^\s\"'`)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, file.name  # the name of SVG, which nobody loads
        assert not re.search(r"@import|@font-face|\burl\(|innerHTML|insertAdjacentHTML|\beval\(|new Function", text), file.name
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)


def test_the_page_is_small() -> None:
    assert sum(len(file.read_bytes()) for file in FILES) < 80_000


# the container -----------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.split(None, 1)[0], " ".join(line.split(None, 1)[1].split())) for line in lines]


KNOWN = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
needs_container_files = pytest.mark.skipif(
    not (ROOT / "Dockerfile").is_file(), reason="the container's files are not part of the package"
)


@needs_container_files
def test_the_dockerfile_says_what_it_should() -> None:
    import json
    import tomllib

    steps = instructions()
    assert {name for name, _ in steps} <= KNOWN and steps[0][0] == "FROM"
    stages = [arguments for name, arguments in steps if name == "FROM"]
    assert len(stages) == 2 and all(re.match(r"python:3\.\d+-slim\b", stage) for stage in stages)  # no moving tag
    copied = [re.search(r"--from=(\w+)", arguments) for name, arguments in steps if name == "COPY"]
    assert [match.group(1) for match in copied if match] == ["build"] and stages[0].endswith(" AS build")
    runs = [arguments for name, arguments in steps if name == "RUN"]
    torch_first = [i for i, run in enumerate(runs) if "https://download.pytorch.org/whl/cpu" in run]
    ours = [i for i, run in enumerate(runs) if '".[serve]"' in run]
    assert torch_first and ours and torch_first[0] < ours[0]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert "serve" in extras
    last = steps[[i for i, (name, _) in enumerate(steps) if name == "FROM"][-1] :]
    (user,) = [arguments for name, arguments in last if name == "USER"]
    assert int(user) > 0 and f"--uid {user}" in " ".join(runs)
    names = [name for name, _ in last]
    assert names.index("USER") < names.index("ENTRYPOINT")
    entry, command, health = (next(a for n, a in last if n == which) for which in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
    words = json.loads(entry) + json.loads(command)  # the form without a shell, so that signals reach the server
    assert words[:2] == ["tima", "serve"] and words[words.index("--host") + 1] == "0.0.0.0"
    port = words[words.index("--port") + 1]
    assert ("EXPOSE", port) in last and f"127.0.0.1:{port}/healthz" in health
    assert json.loads(health.split("CMD", 1)[1])[0] == "python"
    compile(json.loads(health.split("CMD", 1)[1])[2], "health check", "exec")


@needs_container_files
def test_the_words_of_the_container_are_the_commands() -> None:
    import json

    import typer

    from tima.cli import app

    words = [word for name, arguments in instructions() if name in ("ENTRYPOINT", "CMD") for word in json.loads(arguments)]
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {option for parameter in serve.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


@needs_container_files
def test_the_build_gets_what_it_copies_and_no_more() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in ignored
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {
        word
        for name, arguments in instructions()
        if name == "COPY" and "--from" not in arguments
        for word in arguments.split()[:-1]
    }
    assert copied == kept and all((ROOT / path).exists() for path in kept)


@needs_container_files
def test_the_compose_file_is_careful() -> None:
    from tima.serve import Limits

    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    (service,) = compose["services"].values()
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and service["tmpfs"] == ["/tmp"]
    assert "no-new-privileges:true" in service["security_opt"] and service["volumes"] == ["./runs:/runs:ro"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])  # there is no login
    assert service["command"] == ["--runs", "/runs", "--name", "localhost"]  # published on this machine: no stranger's name
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > Limits().attack_seconds + 5
    assert set(service) <= {
        "build", "image", "ports", "volumes", "read_only", "tmpfs", "cap_drop", "security_opt", "mem_limit", "pids_limit",
        "restart", "stop_grace_period", "command",
    }  # fmt: skip
