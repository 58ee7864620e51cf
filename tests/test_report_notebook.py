"""What a notebook shows: numbers that are right, texts that are escaped, and nothing that runs or loads."""

import json
from html.parser import HTMLParser
from pathlib import Path

from test_report import write_stored

from tima.models import DualEncoder, ZeroShotClassifier
from tima.results import Health, read_result

EVIL = '<img src=x onerror="alert(1)">'


class Table(HTMLParser):
    """Rows of text, and every tag and attribute."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.caption = ""
        self.inside = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.inside = tag if tag != "b" else self.inside
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.inside == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data


def assert_safe(source: str) -> Table:
    table = Table(source)
    assert table.tags <= {"table", "caption", "b", "thead", "tbody", "tr", "th", "td"}
    assert table.attributes <= {"style", "scope"}
    return table


def test_a_result_shows_its_numbers_and_its_health(tmp_path: Path) -> None:
    path = write_stored(tmp_path, "cifar10", [0.5, 0.25, 0.1], n=200, class_names=["a", "b", "c", "d"], complete=False)
    record = json.loads(path.read_text())
    record["robust"][0]["health"] = Health(verdict="suspicious", reasons=[EVIL]).model_dump(mode="json")
    record["model"] = EVIL
    path.write_text(json.dumps(record))
    table = assert_safe(read_result(path)._repr_html_())
    assert table.caption == f"{EVIL} on cifar10 · demo@1 · 200 images · seed 0 · unfinished"
    assert table.rows[1:] == [
        ["clean", "50.0 %", "43.1–56.9", ""],  # noqa: RUF001 (Wilson for 100 of 200, worked out apart)
        ["1/255", "25.0 %", "19.5–31.4", f"suspicious: {EVIL}"],  # noqa: RUF001 (50 of 200)
        ["2/255", "10.0 %", "6.6–14.9", "not looked at"],  # noqa: RUF001 (20 of 200)
    ]


def test_a_model_shows_its_sizes_and_what_trains(tiny_clip: DualEncoder) -> None:
    tiny_clip.name = EVIL
    total = sum(p.numel() for p in tiny_clip.parameters())
    table = assert_safe(tiny_clip.requires_grad_(False)._repr_html_())
    rows = dict(table.rows)
    assert table.caption == f"HuggingFaceEncoder {EVIL}" and rows["input"] == "16 × 16 pixels in [0, 1]"  # noqa: RUF001
    assert rows["embedding"] == "24 wide, logit scale 20.1" and rows["kept as"] == "float32 on cpu"  # e to the 3rd is 20.09
    assert rows["weights"] == f"{total / 1e6:.1f} M, frozen"
    tiny_clip.requires_grad_(True)
    assert dict(Table(tiny_clip._repr_html_()).rows)["weights"].endswith("M of them train")


def test_a_classifier_names_some_of_its_classes_and_its_prompts(tiny_clip: DualEncoder) -> None:
    names = [EVIL, *(f"class {i}" for i in range(1, 12))]
    classifier = ZeroShotClassifier(tiny_clip, names, ["a {c}.", "the {c}.", "one {c}.", "some {c}."])
    rows = dict(assert_safe(classifier._repr_html_()).rows)
    assert rows["12 classes"] == ", ".join(names[:8]) + " and 4 more"
    assert rows["4 templates"] == "a {c}. · the {c}. · one {c}. · …"
    assert rows["model"] == "tiny" and "input" in rows
