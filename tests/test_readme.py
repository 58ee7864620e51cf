"""The README says what is so: its Python example runs, its table is what the stored results give."""

import re
import sys
from pathlib import Path

import pytest

from tima.data import known_sets

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"

if not README.is_file():
    pytest.skip("installed without the repository around it", allow_module_level=True)


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    clean, robust, *_ = capsys.readouterr().out.split()
    assert 0 <= float(robust) <= float(clean) <= 1


def test_the_tables_are_made_from_the_stored_results() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from update_readme import PAGES, with_table
    finally:
        sys.path.pop(0)
    assert len(PAGES) == 2
    for name, protocol in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "| cifar10" in text and f"Protocol {protocol}@" in text and with_table(text, protocol) == text


def test_nano_is_small_and_says_what_it_is() -> None:
    folder = ROOT / "src" / "tima" / "assets" / "nano"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 20_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    from tima._files import sha256_file

    assert sha256_file(folder / "model.safetensors") in card
    data = ROOT / "src" / "tima" / "assets" / "data"
    assert sum(f.stat().st_size for f in data.rglob("*") if f.is_file()) < 25_000_000
    licences = (data / "LICENSES.md").read_text(encoding="utf-8")
    assert all(entry.name in licences for entry in known_sets())


def test_nano_knows_more_than_chance() -> None:
    """A hundred held-out photographs: far above the 10 % of chance, so that the file in the package is the trained one."""
    import torch

    from tima import ZeroShotClassifier, find_data, load_model

    model = load_model("nano")
    images = find_data("cifar10", image_size=model.image_size).sample(100, seed=0)
    batch = images.collate([images[i] for i in range(len(images))])
    classifier = ZeroShotClassifier(model, images.class_names, images.templates)
    with torch.no_grad():
        right = int((classifier(batch.image_BCHW.float() / 255).argmax(1) == batch.label_B).sum())
    assert right >= 25
