"""The pages keep their word: links lead somewhere, examples run, and every setting, field and option is explained."""

import ast
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import build_tiny_clip, make_image_set

from tima.data import ImageSet, find_data, table
from tima.models import DualEncoder

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "tima"
PAGES = [
    page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))) if page.is_file()
]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings: lower case, spaces to hyphens, other signs dropped."""
    titles = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def example(name: str, language: str = "python") -> str:
    """The fenced block of CONTRIBUTING.md that follows `<!-- example: NAME -->`."""
    pattern = rf"<!-- example: {re.escape(name)} -->\n```{language}\n(.*?)^```"
    found = re.findall(pattern, read("CONTRIBUTING.md"), flags=re.DOTALL | re.MULTILINE)
    assert len(found) == 1, f"CONTRIBUTING.md should have one example '{name}', it has {len(found)}"
    return str(found[0])


def run(code: str, title: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    names = {"__name__": title} if names is None else names
    exec(compile(code, f"CONTRIBUTING.md, {title}", "exec"), names)
    return names


def as_module(monkeypatch: pytest.MonkeyPatch, name: str, code: str) -> ModuleType:
    """The module that a newcomer would have saved under this name."""
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    run(code, name, module.__dict__)
    return module


# the pages --------------------------------------------------------------------------------------------------------


def test_the_pages_are_there() -> None:
    names = {page.name for page in PAGES}
    assert {
        "CONTRIBUTING.md",
        "method.md",
        "threat-model.md",
        "footguns.md",
        "architecture.md",
        "evaluation.md",
        "cli.md",
    } <= names


@each_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = [a or b for a, b in LINK.findall(without_code(page.read_text(encoding="utf-8")))]
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken, f"{page.name} links to what is not there: {broken}"


@each_page
def test_tests_that_are_named_exist(page: Path) -> None:
    for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert re.search(rf"^def {name}\(", read(file), re.MULTILINE), f"{page.name} names {file}::{name}, which is not there"


@each_page
def test_python_blocks_are_python(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
        ast.parse(block)


# what the pages must not leave out --------------------------------------------------------------------------------


def test_every_setting_of_tima_is_explained_with_its_default() -> None:
    from tima.methods.tima import TimaConfig

    section = read("docs/method.md").split("## The fields of `TimaConfig`")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE))
    wanted = {name: str(field.default) for name, field in TimaConfig.model_fields.items()}
    assert rows == wanted, "the table of TimaConfig in docs/method.md and the code differ"


def test_every_formula_has_its_function() -> None:
    from tima.methods import terms

    named = set(re.findall(r"`terms\.(\w+)`", read("docs/method.md"))) - {"py"}
    public = {name for name, value in vars(terms).items() if hasattr(value, "__wrapped__")}
    assert named == public


def test_every_method_and_protocol_is_on_a_page() -> None:
    from tima.methods import METHODS
    from tima.protocols import known_protocols

    assert not [name for name in METHODS if f"`{name}`" not in read("docs/method.md")]
    pages = read("docs/evaluation.md") + read("docs/threat-model.md")
    assert not [name for name in known_protocols() if f"{name}.yaml" not in pages]


def test_every_field_of_results_and_protocols_is_explained() -> None:
    from tima.protocols import Protocol
    from tima.results import Clean, Metrics, Quarantined, Result, Robust

    page = read("docs/evaluation.md")
    fields = [
        info.alias or name
        for record in (Result, Robust, Clean, Metrics, Quarantined, Protocol)
        for name, info in record.model_fields.items()
    ]
    assert not [field for field in fields if f"`{field}`" not in page]


def test_every_command_and_option_is_explained() -> None:
    import typer

    from tima.cli import app

    page = read("docs/cli.md")
    sections = {
        line.removeprefix("## "): text
        for line, text in re.findall(r"^(## [^\n]+)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    }
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        text = "".join(body for title, body in sections.items() if f"`tima {name}`" in title)
        assert text, f"docs/cli.md has no section on `tima {name}`"
        options = {
            option for p in command.params if p.param_type_name == "option" for option in p.opts if option.startswith("--")
        }
        missing = [option for option in options - {"--help"} if f"`{option}`" not in text]
        assert not missing, f"docs/cli.md does not explain {missing} of `tima {name}`"


def test_the_module_map_is_true() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", read("docs/architecture.md").split("## Module map")[1], re.MULTILINE)
    named = {path for row in rows for path in re.findall(r"`([^`]+)`", row)}
    assert not [path for path in named if not (SOURCE / path).exists()]
    public = {p.name for p in SOURCE.glob("*.py") if not p.name.startswith("_")}
    public |= {f"{p.name}/" for p in SOURCE.iterdir() if p.is_dir() and p.name[0] not in "._"}
    covered = named | {f"{path.split('/')[0]}/" for path in named}
    assert not public - covered, "modules that docs/architecture.md leaves out"


# the examples of CONTRIBUTING.md ----------------------------------------------------------------------------------


def test_the_method_example_passes_its_own_test(tiny_clip: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    as_module(monkeypatch, "tima.methods.mixed", example("method"))
    names = run(example("method test"), "test_mixed")
    checks = [value for name, value in names.items() if name.startswith("test_")]
    assert len(checks) == 1
    checks[0](tiny_clip)


def test_the_method_example_trains_from_its_recipe(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tima.config import TrainRecipe
    from tima.methods import METHODS, find_method
    from tima.train import train

    mixed = as_module(monkeypatch, "tima.methods.mixed", example("method")).Mixed
    monkeypatch.setitem(METHODS, mixed.name, mixed)
    for field in mixed.Config.model_fields.values():
        assert "known:" in field.description or "our reading" in field.description
    values = yaml.safe_load(example("method recipe", "yaml"))
    TrainRecipe(**values)  # as it stands on the page
    assert find_method(values["method"]) is mixed
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    images = make_image_set(n=40, classes=4)
    for i in range(len(images)):
        file = tmp_path / "data" / "train" / images.class_names[int(images.label_B[i])] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(images.read(i))  # type: ignore[arg-type]
    small: dict[str, Any] = dict(model=str(tmp_path / "model"), data=str(tmp_path / "data"), steps=2, batch_size=8)
    small |= dict(val_samples=8, val_attack_steps=1, held_out_classes=0)
    train(TrainRecipe(**{**values, **small}), tmp_path / "run", progress=False)
    assert '"adv"' in (tmp_path / "run" / "metrics.jsonl").read_text() and (tmp_path / "run" / "summary.json").is_file()


def test_the_data_examples_make_data_sets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(example("parquet"), "parquet")
    written = find_data("fruit", image_size=16)
    made: ImageSet = run(example("image set"), "image set", names)["fruit"]
    for images in (written, made.at_size(16)):
        assert images.name == "fruit" and images.class_names == ["strawberry", "lime"] and images.label_B.tolist() == [0, 1]
        red, green = images[0][0], images[1][0]
        assert red[:, 8, 8].tolist() == [200, 30, 30] and green[:, 8, 8].tolist() == [30, 160, 40]  # type: ignore[index]
    assert written.templates[1] == "a picture of a {c}, a fruit."
    entry = run(example("embedded entry"), "entry", {"DataEntry": table.DataEntry})["entry"]
    monkeypatch.setitem(table.EMBEDDED, entry.name, entry)
    monkeypatch.setattr(table, "embedded_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path.parent)  # found by its name, not because it lies here
    assert find_data("fruit").class_names == ["strawberry", "lime"] and entry in table.known_sets()


def test_the_attack_example_fits_the_evaluation(
    tiny_clip: DualEncoder, toy_set: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    from tima.attacks import ATTACKS
    from tima.evaluate import evaluate
    from tima.models import ZeroShotClassifier
    from tima.protocols import load_protocol

    corners = as_module(monkeypatch, "tima.attacks.corners", example("attack")).corners
    classifier = ZeroShotClassifier(tiny_clip, toy_set.class_names).requires_grad_(False)
    image = toy_set.collate([toy_set[i] for i in range(len(toy_set))]).image_BCHW.float() / 255
    label = classifier(image).argmax(1)  # a model that is always right, so that there is something to break
    images = replace(toy_set, label_B=label)

    def margin(x: torch.Tensor) -> torch.Tensor:
        logits = classifier(x)
        return logits.scatter(1, label[:, None], -torch.inf).amax(1) - logits.gather(1, label[:, None])[:, 0]

    def attack(tries: int, seed: int = 0, start: torch.Tensor | None = None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return corners(classifier, image, label, 8 / 255, tries=tries, start_BCHW=start, generator=generator)

    few, many = attack(1), attack(20)  # the same first point, then others
    assert (many.double() - image.double()).abs().max() <= 8 / 255 and many.min() >= 0 and many.max() <= 1
    assert (margin(many) >= margin(few) - 1e-5).all() and (margin(many) > margin(few) + 1e-5).any()
    assert (margin(attack(1, seed=1, start=many)) >= margin(many) - 1e-5).all()
    monkeypatch.setitem(ATTACKS, "corners", corners)
    protocol = load_protocol("demo").override(attack="corners", attack_params={"tries": 5}, eps=["4/255", "128/255"])
    result = evaluate(tiny_clip, images, protocol, out=tmp_path, progress=False)
    assert result.complete and result.clean.accuracy == 1 and [a.name for a in result.robust[0].attacks] == ["corners"]
    assert result.robust[0].forwards == 24 * 6 and result.robust[1].correct < 24  # five tries and the judgement
