"""Every Python block of the pages runs, or says above itself why it does not.

A block runs after those before it on its page, as a reader would run it, in a folder with small stand-ins: `nano` and the runs
are tiny random models, the data sets a few pictures, the protocols few images and steps. Two comments change that:

    <!-- not run: REASON -->                        directly above the block
    <!-- run by tests/test_x.py::test_y -->         another test runs it, because it needs more than this
"""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import build_tiny_clip, make_image_set
from test_report import write_metrics, write_run

from tima.data import ImageSet
from tima.models import DualEncoder, ZeroShotClassifier
from tima.protocols import Protocol

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```python\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = {page.name: list(BLOCK.finditer(page.read_text(encoding="utf-8"))) for page in PAGES}
WITH_BLOCKS = [name for name, blocks in BLOCKS.items() if blocks]
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def marked(mark: str | None) -> bool:
    return bool(mark) and str(mark).startswith(("not run: ", "run by "))


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_marks_give_a_reason_or_a_test_that_exists(name: str) -> None:
    for block in BLOCKS[name]:
        mark = block["mark"] or ""
        if mark.startswith("not run: "):
            assert len(mark) > len("not run: ") + 20, f"{name}: say why in a sentence, not '{mark}'"
        if mark.startswith("run by "):
            file, test = mark.removeprefix("run by ").split("::")
            assert re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), mark


@pytest.fixture
def place(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A folder with runs, stand-ins behind the public names, and the names that a page's text has introduced."""
    import torch

    import tima.data
    import tima.models
    import tima.protocols

    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    tiny = build_tiny_clip(tokenizer)
    shares = {"original": [0.6, 0.2, 0.1, 0.0, 0.0], "x": [0.5, 0.4, 0.3, 0.2, 0.1], "y": [0.5, 0.4, 0.3, 0.1, 0.1]}
    shares |= {"a": shares["x"], "b": shares["y"]}
    for run, row in shares.items():
        write_run(tmp_path / "runs" / run, None if run == "original" else "tima", {"cifar10": row, "groceries": row})
        write_run(tmp_path / "pgd" / run, None, {"cifar10": row}, protocol="pgd")
        for file in (tmp_path / "pgd" / run / "results").iterdir():
            file.rename(tmp_path / "runs" / run / "results" / file.name)
        tiny.save_pretrained(tmp_path / "runs" / run / "model")
        write_metrics(tmp_path / "runs" / run)
    whole = tima.protocols.load_protocol

    def model(name: str, **options: Any) -> DualEncoder:
        return build_tiny_clip(tokenizer) if name == "nano" else loader(name, **options)

    def data(name: str, split: str | None = None, image_size: int = 16) -> ImageSet:
        images = make_image_set(n=96 if name == "pictures" else 32, classes=8, size=16, name=name)
        images.class_names[:] = CIFAR10[:8]
        return images.at_size(image_size)

    def protocol(name: str) -> Protocol:
        few = whole(name).override(samples=8, eps=["4/255"])
        return few.override(attack_params=few.attack_params | {"steps": 2}) if "steps" in few.attack_params else few

    loader = tima.models.load_model
    monkeypatch.setattr(tima.models, "load_model", model)
    monkeypatch.setattr(tima.models, "nano_folder", lambda: tmp_path / "runs" / "x" / "model")
    monkeypatch.setattr(tima.data, "find_data", data)
    monkeypatch.setattr(tima.protocols, "load_protocol", protocol)
    images = data("cifar10")
    batch = images.collate([images[i] for i in range(4)])
    return {
        "__name__": "example",
        "classifier": ZeroShotClassifier(tiny, ["cat", "dog", "ship"]),
        "purify": torch.nn.Identity(),
        "image_BCHW": batch.image_BCHW.float() / 255,
        "label_B": torch.zeros(4, dtype=torch.long),
    }


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_every_example_runs(name: str, place: dict[str, Any]) -> None:
    ran = 0
    for block in BLOCKS[name]:
        if not marked(block["mark"]):
            exec(compile(block["code"], f"{name}, example {ran + 1}", "exec"), place)
            ran += 1
    assert ran or all(marked(block["mark"]) for block in BLOCKS[name])
