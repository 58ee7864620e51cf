"""The lists of faults and of bad input in docs/evaluation.md: every line names tests, and all of them exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")


def lines(title: str) -> list[str]:
    section = PAGE.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


@pytest.mark.parametrize(
    ("title", "count"), [("Faults of published code, and the test that keeps each out", 14), ("Bad input", 9)]
)
def test_every_line_names_tests_that_exist(title: str, count: int) -> None:
    found = lines(title)
    assert len(found) == count
    for line in found:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", line)
        assert named, f"no test is named: {line}"
        for file, name in named:
            assert re.search(rf"^def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{name}"
