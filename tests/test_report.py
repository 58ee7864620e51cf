"""The report: what it reads, what it says, and that nothing is dropped, mixed or made up."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from tima.errors import ResultError
from tima.evaluation.subject import NO_BF16
from tima.protocols import load_protocol
from tima.report import markdown_table, report, terminal_table
from tima.report.compare import compare
from tima.report.gallery import galleries
from tima.report.paired import paired
from tima.report.runs import read_runs
from tima.report.svg import slot
from tima.report.words import chance_sentence, summary_sentences
from tima.results import AttackRecord, Clean, Metrics, Quarantined, Result, Robust, result_path
from tima.stats import macro_average, wilson

CLASSES = ["cat", "dog", "tree", "boat"]


def write_metrics(folder: Path, steps: int = 60, terms: tuple[str, ...] = ("margin", "distance")) -> None:
    """metrics.jsonl as the trainer writes it: a line every ten steps, a validation every twenty."""
    lines: list[dict[str, Any]] = []
    for step in range(10, steps + 1, 10):
        part = {name: round((i + 1) * (0.4 + np.exp(-3 * step / steps)), 5) for i, name in enumerate(terms)}
        noise = 0.02 * np.sin(step)
        train = {"loss": sum(part.values()), "terms": part, "robust_accuracy": 0.4 * step / steps + noise, "images_per_s": 90.0}
        lines.append({"kind": "train", "step": step, **train, "lr": 1e-4, "eps": 4 / 255})
        if step % 20 == 0:
            seen = {"clean_accuracy": 0.7, "robust_accuracy": 0.3 * step / steps, "n": 100, "one_class": False}
            unseen = {"clean_accuracy": 0.5, "robust_accuracy": 0.2 * step / steps, "n": 80, "one_class": False}
            lines.append({"kind": "val", "step": step, "score": 0.4, "seen": seen, "unseen": unseen})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_stored(
    folder: Path,
    data: str,
    shares: list[float],
    *,
    n: int = 200,
    complete: bool = True,
    protocol: str = "demo",
    train_domain: bool = False,
    class_names: list[str] = CLASSES,
    quarantine: list[Quarantined] | None = None,
    gallery_GCHW: np.ndarray | None = None,
    gallery_index: list[int] | None = None,
    answers: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    fallbacks: list[str] | None = None,
    **override: Any,
) -> Path:
    """A result whose clean and robust accuracies are `shares` (clean first), with its sidecar; returns the JSON's path."""
    rules = load_protocol(protocol).override(**override)
    counts = [round(share * n) for share in shares]
    robust = [
        Robust(
            eps=eps, eps_text=text, n=n, correct=c, robust_accuracy=c / n, ci95=wilson(c, n), already_broken=n - before,
            attacks=[AttackRecord(name="pgd", params=rules.attack_params, broken=before - c)], forwards=10 * before,
            backwards=10 * before, wall_time_s=2.5,
        )
        for eps, text, before, c in zip(rules.eps, rules.content()["eps"], counts, counts[1:], strict=False)
    ]  # fmt: skip
    result = Result(
        dataset=data, model="nano", pretrained=str(folder.name), attack=rules.attack, norm=rules.norm, n=n, seed=rules.seed,
        metrics=Metrics(acc1=counts[0] / n, acc5=None, mean_per_class_recall=counts[0] / n),
        clean=Clean(n=n, correct=counts[0], accuracy=counts[0] / n, ci95=wilson(counts[0], n)), robust=robust,
        class_names=class_names, templates=["a photo of a {c}."], protocol={**rules.content(), "sha256": rules.sha256},
        checkpoint_sha256="ab" * 32, versions={"tima": "0.1.0", "torch": "2.13.0"}, quarantine=quarantine or [],
        train_domain=train_domain, wall_time_s=12.5, complete=complete, fallbacks=fallbacks or [],
    )  # fmt: skip
    path = result_path(folder, data, rules)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result.to_json()))
    alive = torch.arange(n)
    tensors = {
        "index_N": alive, "label_N": alive % 4, "clean_prediction_N": alive % 4, "correct_N": alive < counts[0],
        "robust_EN": torch.stack([alive < c for c in counts[1:]]) if counts[1:] else torch.zeros(0, n, dtype=torch.bool),
    }  # fmt: skip
    if gallery_GCHW is not None:
        sizes = [row.eps for row in robust]
        tensors |= gallery_tensors(gallery_GCHW, gallery_index, sizes, len(class_names), folder.name, answers)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path.with_suffix(".safetensors"))
    return path


def gallery_tensors(
    clean_GCHW: np.ndarray,
    index: list[int] | None,
    eps_E: list[float],
    classes: int,
    seed: str,
    answers: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
) -> dict[str, torch.Tensor]:
    """Gallery tensors with sign noise of every eps as the attack."""
    rng = np.random.default_rng(sum(seed.encode()))
    sign_GCHW = np.sign(rng.normal(size=clean_GCHW.shape))
    adv = np.stack([np.clip(clean_GCHW / 255 + eps * sign_GCHW, 0, 1) for eps in eps_E]).astype(np.float16)
    g, rows = len(clean_GCHW), len(eps_E) + 1
    label = np.arange(g) % classes
    prediction = np.stack([label, *((label + 1) % classes for _ in eps_E)])
    confidence = np.linspace(0.4, 0.9, rows * g).reshape(rows, g)
    if answers is not None:
        label, prediction, confidence = answers
    tensors = {
        "gallery_clean": clean_GCHW, "gallery_adv": adv, "gallery_label": label, "gallery_prediction": prediction,
        "gallery_confidence": confidence.astype(np.float32),
    }  # fmt: skip
    if index is not None:
        tensors["gallery_index"] = np.array(index)
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in tensors.items()}


def write_run(folder: Path, method: str | None, scores: dict[str, list[float]], **options: Any) -> Path:
    """A run folder; `method` None is a model that was only evaluated."""
    folder.mkdir(parents=True)
    if method is not None:
        summary = {"method": method, "model": "nano", "data": "pictures", "eps": 4 / 255, "steps": 60, "best_step": 40}
        (folder / "summary.json").write_text(json.dumps({**summary, "seconds": 75.4, "val": {}, "seed": 0}))
        write_metrics(folder)
    for data, shares in scores.items():
        write_stored(folder, data, shares, train_domain=method is not None and data == "pictures", **options)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three models on two zero-shot sets and the training domain, with gallery."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    options: dict[str, Any] = {"gallery_GCHW": pictures, "gallery_index": [5, 9, 11]}
    scores = {
        "original": [[0.6, 0.2, 0.05, 0.0, 0.0], [0.5, 0.1, 0.0, 0.0, 0.0], [0.8, 0.3, 0.1, 0.0, 0.0]],
        "tecoa": [[0.4, 0.35, 0.3, 0.2, 0.1], [0.3, 0.25, 0.2, 0.1, 0.05], [0.7, 0.6, 0.5, 0.4, 0.2]],
        "tima": [[0.5, 0.45, 0.4, 0.4, 0.15], [0.4, 0.35, 0.3, 0.3, 0.05], [0.75, 0.7, 0.6, 0.5, 0.2]],
    }
    sets = ["cifar10", "groceries", "pictures"]
    return [
        write_run(tmp_path / name, None if name == "original" else name, dict(zip(sets, rows, strict=True)), **options)
        for name, rows in scores.items()
    ]


class Page(HTMLParser):
    """Collects what the tests ask about: ids, references, tags with attributes, and text by data cell."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_a_run_called_tima_says_what_it_adds_to_the_method(runs: list[Path]) -> None:
    assert [run.name for run in read_runs(runs)] == ["original", "TeCoA", "TIMA"]
    tima = next(path for path, run in zip(runs, read_runs(runs), strict=True) if run.name == "TIMA")
    (tima / "recipe.yaml").write_text("method: tima\nmethod_config: {w_feature: 0.01}\n")
    assert [run.name for run in read_runs(runs)] == ["original", "TeCoA", "TIMA + features"]
    (tima / "recipe.yaml").write_text("method: tima\nmethod_config: {w_feature: 0.0}\n")
    assert read_runs(runs)[2].name == "TIMA"


def test_averages_are_over_zero_shot_sets_and_over_all(runs: list[Path]) -> None:
    (comparison,) = compare(read_runs(runs))
    zero_shot, every = comparison.averages
    assert zero_shot.average_of == ("cifar10", "groceries")
    assert every.average_of == ("cifar10", "groceries", "pictures")
    tima_at_4 = comparison.columns.index("4/255")
    cell = zero_shot.cells[2][tima_at_4]
    assert (cell.value, cell.low, cell.high) == pytest.approx(macro_average([(80, 200), (60, 200)]))
    assert every.cells[2][tima_at_4].value == pytest.approx((0.4 + 0.3 + 0.5) / 3)
    # the original model was trained on nothing here, but the set is still the others' training domain
    assert [block.train_domain for block in comparison.data_sets] == [False, False, True]


def test_best_is_marked_per_column_and_on_ties_for_all(runs: list[Path]) -> None:
    (comparison,) = compare(read_runs(runs))
    groceries = next(block for block in comparison.data_sets if block.title == "groceries")
    assert [[cell.best for cell in row] for row in groceries.cells] == [
        [True, False, False, False, False],
        [False, False, False, False, True],
        [False, True, True, True, True],
    ]


def test_sentences_are_computed(runs: list[Path]) -> None:
    (comparison,) = compare(read_runs(runs))
    first, clean = summary_sentences(comparison)
    assert first.startswith("On average over 2 zero-shot data sets, TIMA still classifies 35.0 % of the images correctly")
    assert "up to 4/255" in first and first.endswith("against 15.0 % for TeCoA and 0.0 % for original.")
    assert clean == "Without an attack, original reaches 55.0 %, TIMA reaches 45.0 % and TeCoA reaches 35.0 %."


def test_overlapping_intervals_are_said(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", "tecoa", {"cifar10": [0.5, 0.4, 0.3, 0.20, 0.1]}),
        write_run(tmp_path / "b", "tima", {"cifar10": [0.5, 0.4, 0.3, 0.22, 0.1]}),
    ]
    (comparison,) = compare(read_runs(folders))
    assert "The intervals of TIMA and TeCoA overlap" in " ".join(summary_sentences(comparison))


def test_the_sentence_says_what_the_paired_table_says(tmp_path: Path) -> None:
    """20 and 30 % of 200: the intervals overlap (26.1 above 24.1), yet all 20 images that differ favour one (p = 2e-6)."""
    found = []
    for name, share in (("close", 0.21), ("far", 0.30)):
        folders = [
            write_run(tmp_path / name / "a", "tecoa", {"cifar10": [0.5, 0.4, 0.3, 0.20, 0.1]}),
            write_run(tmp_path / name / "b", "tima", {"cifar10": [0.5, 0.4, 0.3, share, 0.1]}),
        ]
        (comparison,) = compare(read_runs(folders))
        assert "overlap" in " ".join(summary_sentences(comparison))  # without outcomes of images, intervals are all there is
        found.append(" ".join(summary_sentences(comparison, paired(comparison))))
        assert found[-1] in markdown_table(folders)
    assert "On the same images, the difference between TIMA and TeCoA may be chance." in found[0]
    assert "chance" not in found[1] and "overlap" not in found[1]


def test_what_one_answer_to_everything_gets_is_said(tmp_path: Path) -> None:
    """Four classes: 25 %. Of 200 images 60 have an interval from 24.1 %, 64 one from 25.9 %."""
    scores = {"a": [0.5, 0.4, 0.32, 0.30, 0.1], "b": [0.6, 0.5, 0.4, 0.35, 0.32], "c": [0.3, 0.2, 0.1, 0.0, 0.0]}
    folders = [write_run(tmp_path / name, None, {"cifar10": shares}) for name, shares in scores.items()]
    (comparison,) = compare(read_runs(folders))
    said = chance_sentence(comparison)
    assert said.startswith("On cifar10, giving one and the same answer to every image is right for 25.0 %, attacked or not; ")
    assert said.endswith("not shown to be above that: original (a) from 4/255 on and original (c) even without an attack.")
    assert said in markdown_table(folders)
    above = [write_run(tmp_path / "d", None, {"cifar10": [0.6, 0.5, 0.4, 0.35, 0.32]})]
    assert chance_sentence(compare(read_runs(above))[0]).endswith("attacked or not; every number is above that.")


def test_a_tie_has_no_winner_and_no_difference(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", "tecoa", {"cifar10": [0.5, 0.4, 0.3, 0.2, 0.1]}),
        write_run(tmp_path / "b", "tima", {"cifar10": [0.6, 0.4, 0.3, 0.2, 0.1]}),
    ]
    (comparison,) = compare(read_runs(folders))
    first, *others = summary_sentences(comparison)
    assert first.startswith("On cifar10, TeCoA and TIMA still classify ") and "against" not in first
    assert not any("overlap" in sentence for sentence in others)


def test_missing_result_is_shown_and_has_no_average(runs: list[Path]) -> None:
    for file in (runs[1] / "results").glob("groceries*"):
        file.unlink()
    (comparison,) = compare(read_runs(runs))
    groceries = next(block for block in comparison.data_sets if block.title == "groceries")
    assert {cell.note for cell in groceries.cells[1]} == {"missing"}
    assert {cell.note for cell in comparison.averages[0].cells[1]} == {"missing: 1 of 2 sets"}
    text = markdown_table(runs)
    assert "groceries: missing for TeCoA." in text and "*missing: 1 of 2 sets*" in text


def test_a_run_without_results_is_a_row(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "summary.json").write_text(json.dumps({"method": "fare", "model": "nano"}))
    (comparison,) = compare(read_runs([*runs, tmp_path / "new"]))
    assert all(cell.note.startswith("missing") for block in comparison.blocks for cell in block.cells[3])
    only = report([tmp_path / "new"], tmp_path / "only.html").read_text()
    assert "None of these runs has a result yet." in only
    console = Console(file=io.StringIO(), width=120)
    console.print(terminal_table([tmp_path / "new"]))
    assert "FARE: no results in" in console.file.getvalue()  # type: ignore[attr-defined]


def test_unfinished_result_is_labelled(runs: list[Path], tmp_path: Path) -> None:
    write_stored(runs[2], "cifar10", [0.5, 0.45, 0.4], complete=False)
    (comparison,) = compare(read_runs(runs))
    cifar = comparison.data_sets[0]
    assert [cell.note for cell in cifar.cells[2]] == ["", "", "", "unfinished", "unfinished"]
    assert cifar.cells[2][2].value == pytest.approx(0.4)
    assert comparison.averages[0].cells[2][3].note == "unfinished: 1 of 2 sets"
    page = Page(report(runs, tmp_path / "r.html"))
    assert "cifar10: unfinished for TIMA." in page.text


def test_another_number_of_images_is_flagged_and_nothing_is_best(runs: list[Path]) -> None:
    write_stored(runs[2], "cifar10", [0.5, 0.45, 0.4, 0.4, 0.15], n=100)
    (comparison,) = compare(read_runs(runs))
    cifar = comparison.data_sets[0]
    assert "different numbers of images (original 200, TeCoA 200, TIMA 100)" in cifar.warnings[0]
    assert not any(cell.best for block in (cifar, comparison.averages[0]) for row in block.cells for cell in row)
    assert any(cell.best for row in comparison.data_sets[1].cells for cell in row)
    assert "not compared like for like" in " ".join(summary_sentences(comparison))


def test_other_class_names_are_flagged(runs: list[Path]) -> None:
    write_stored(runs[2], "cifar10", [0.5, 0.45, 0.4, 0.4, 0.15], class_names=["cat", "dog", "tree", "ship"])
    (comparison,) = compare(read_runs(runs))
    assert comparison.data_sets[0].warnings == ["different class names, so not a like-for-like comparison"]


def test_protocols_are_never_mixed(runs: list[Path], tmp_path: Path) -> None:
    for file in (runs[2] / "results").glob("cifar10*"):
        file.unlink()
    write_stored(runs[2], "cifar10", [0.9, 0.9], eps="4/255")
    demo, custom = compare(read_runs(runs))
    assert (demo.label, custom.label) == ("demo@1", "custom@1")
    assert demo.data_sets[0].cells[2][0].note == "missing"
    assert custom.columns == ["clean", "4/255"] and [row[0].value for row in custom.data_sets[0].cells] == [None, None, 0.9]
    page = Page(report(runs, tmp_path / "r.html"))
    assert "evaluated under different protocols" in page.text and "do not compare across" in page.text
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal_table(runs))
    assert "[custom@1]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_same_protocol_name_with_another_content_is_another_protocol(runs: list[Path]) -> None:
    path = next((runs[2] / "results").glob("cifar10*.json"))
    record = json.loads(path.read_text())
    record["protocol"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record))
    assert [c.label for c in compare(read_runs(runs))] == ["demo@1", "demo@1"]


def test_page_is_self_contained_and_valid(runs: list[Path], tmp_path: Path) -> None:
    page = Page(report(runs, tmp_path / "out" / "report.html", title="A <b> & c"))
    assert not page.of("script") and not page.of("link")
    assert "A <b> & c" in page.text
    outside = [a[name] for _, a in page.tags for name in ("src", "href", "xlink:href") if name in a]
    assert outside and all(address is not None and address.startswith(("data:", "#")) for address in outside)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for address in outside:
        assert address is not None and (address.startswith("data:") or address[1:] in ids)
    for name in re.findall(r"url\(#([^)]+)\)", page.source):
        assert name in ids
    assert set(re.findall(r"var\((--[\w-]+)\)", page.source)) <= set(re.findall(r"(--[\w-]+):", page.source))
    assert not re.search(r"#0[bc]0e\d\d", page.source), "a stand-in colour was left in a figure"


def test_page_is_accessible(runs: list[Path], tmp_path: Path) -> None:
    page = Page(report(runs, tmp_path / "report.html"))
    assert all(image.get("alt") for image in page.of("img")) and page.of("img")
    figures = [svg for svg in page.of("svg") if svg.get("role") == "img"]
    # a curve for each block, two panels for each trained run, the overview clean and attacked, the front for each eps
    assert len(figures) == 5 + 2 * 2 + 2 + 4 and all(figure.get("aria-label") for figure in figures)
    assert any("TIMA: clean 45.0 %, 1/255 40.0 %" in str(figure["aria-label"]) for figure in figures)
    assert all(svg.get("aria-hidden") == "true" for svg in page.of("svg") if svg.get("role") != "img")
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(header.get("scope") for header in page.of("th"))
    assert page.of("html")[0]["lang"] == "en" and len(page.of("h1")) == 1


def test_training_curves_need_a_log(runs: list[Path], tmp_path: Path) -> None:
    assert Page(report(runs, tmp_path / "a.html")).text.count("Loss and its terms") == 2
    for run in runs[1:]:
        (run / "metrics.jsonl").unlink()
    assert "Loss and its terms" not in Page(report(runs, tmp_path / "b.html")).text


def test_a_cut_off_last_line_is_forgiven_and_a_broken_one_is_not(runs: list[Path]) -> None:
    file = runs[1] / "metrics.jsonl"
    whole = file.read_text()
    count = len(read_runs(runs)[1].metrics)
    file.write_text(whole + '{"kind": "train", "st')
    assert len(read_runs(runs)[1].metrics) == count
    file.write_text("no json\n" + whole)
    with pytest.raises(ResultError, match=r"metrics\.jsonl, line 1"):
        read_runs(runs)


def test_gallery_shows_each_model_its_own_attack(runs: list[Path]) -> None:
    (comparison,) = compare(read_runs(runs))
    cifar = galleries(comparison, pictures=2)[0]
    assert (cifar.data, cifar.eps_text, len(cifar.pictures)) == ("cifar10", "4/255", 2)
    views = cifar.pictures[1].views
    assert cifar.pictures[1].label == "dog" and [view.run.name for view in views] == ["original", "TeCoA", "TIMA"]
    assert len({view.perturbation for view in views}) == 3
    assert all(view.clean and view.clean.right and view.attacked and view.attacked.name == "tree" for view in views)


def test_gallery_prefers_pictures_that_all_models_have(runs: list[Path]) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    write_stored(runs[2], "cifar10", [0.5, 0.45, 0.4, 0.4, 0.15], gallery_GCHW=pictures, gallery_index=[11, 40])
    (comparison,) = compare(read_runs(runs))
    rows = galleries(comparison, pictures=2)[0].pictures
    assert [view.clean is not None for view in rows[0].views] == [True, True, True]
    assert [view.clean is not None for view in rows[1].views] == [True, True, False]


def test_gallery_perturbation_is_centred_grey_and_amplified(tmp_path: Path) -> None:
    import base64

    from PIL import Image

    grey = np.full((1, 3, 4, 4), 128, dtype=np.uint8)
    folder = write_run(tmp_path / "a", "tima", {"cifar10": [0.5, 0.4, 0.3, 0.2, 0.1]}, gallery_GCHW=grey, gallery_index=[0])
    (comparison,) = compare(read_runs([folder]))
    uri = galleries(comparison)[0].pictures[0].views[0].perturbation
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    # +-eps becomes white and black, up to the half-precision storage of the attacked picture
    assert ((pixels <= 4) | (pixels >= 251)).all() and (pixels <= 4).any() and (pixels >= 251).any()


def test_a_picture_that_was_never_attacked_says_so(runs: list[Path], tmp_path: Path) -> None:
    sidecar = next((runs[0] / "results").glob("cifar10*.safetensors"))
    tensors = load_file(sidecar)
    tensors["gallery_adv"] = (tensors["gallery_clean"] / 255).half().expand(4, -1, -1, -1, -1).contiguous()
    tensors["gallery_prediction"] = (tensors["gallery_label"] + 1).remainder(4).expand(5, -1).contiguous()
    save_file(tensors, sidecar)
    (comparison,) = compare(read_runs(runs))
    original, tecoa, _ = galleries(comparison)[0].pictures[0].views
    assert not original.changed and tecoa.changed
    page = Page(report(runs, tmp_path / "r.html", pictures=1))
    assert page.text.count("no change: wrong without an attack") == 1


def test_left_out_pictures_are_listed(runs: list[Path], tmp_path: Path) -> None:
    bad = [Quarantined(where="cifar10 #3", why="OSError: truncated")]
    write_stored(runs[0], "cifar10", [0.6, 0.2, 0.05, 0.0, 0.0], quarantine=bad)
    page = Page(report(runs, tmp_path / "r.html"))
    assert "1 image could not be read" in page.text and "OSError: truncated" in page.text
    assert "ab" * 32 in page.text and "demo@1" in page.text


def test_what_was_done_otherwise_than_asked_is_said(runs: list[Path], tmp_path: Path) -> None:
    """On the page, in Markdown and in the terminal: rows of one table may have been attacked unlike each other."""
    half = "out of memory in pgd: batch halved to 6"
    shares = [0.6, 0.2, 0.05, 0.0, 0.0]
    write_stored(runs[0], "cifar10", shares, fallbacks=[NO_BF16, half, half])
    write_stored(runs[1], "cifar10", shares, fallbacks=[NO_BF16])
    said = [f"original and TeCoA: {NO_BF16} (2 results).", f"original: {half} (1 result)."]
    page = Page(report(runs, tmp_path / "r.html"))
    assert all(sentence in page.text and f"> **Note:** {sentence}" in markdown_table(runs) for sentence in said)
    assert all(sentence in str(terminal_table(runs).caption) for sentence in said)


def test_names_follow_the_order_given_and_stay_apart(runs: list[Path], tmp_path: Path) -> None:
    twin = write_run(tmp_path / "again", "tima", {"cifar10": [0.5, 0.4, 0.3, 0.2, 0.1]})
    named = read_runs([runs[2], runs[0], twin])
    assert [run.name for run in named] == ["TIMA (tima)", "original", "TIMA (again)"]
    assert [run.series for run in named] == [1, 0, 2]
    assert [slot(series) for series in (0, 1, 6, 7)] == [0, 1, 6, 1]


def test_bad_folders_are_refused(runs: list[Path], tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for folders, words in (([], "No run folder"), ([nowhere], "is not there"), ([runs[0], runs[0]], "given twice")):
        with pytest.raises(ResultError, match=words):
            markdown_table(folders)
    (runs[1] / "summary.json").write_text("{")
    with pytest.raises(ResultError, match=r"summary\.json cannot be read"):
        markdown_table(runs)


def test_markdown_and_csv_lie_beside_the_page(runs: list[Path], tmp_path: Path) -> None:
    out = report(runs, tmp_path)
    assert out == tmp_path / "report.html"
    text = out.with_suffix(".md").read_text()
    assert "| Zero-shot average | original | **55.0** <sub>" in text and "| pictures (training domain) | original |" in text
    rows = list(csv.DictReader(io.StringIO(out.with_suffix(".csv").read_text())))
    assert len(rows) == 5 * 3 * 5
    (row,) = [r for r in rows if (r["data"], r["model"], r["eps"]) == ("groceries", "TIMA", "0.0156863")]
    low, high = wilson(60, 200)
    assert (float(row["accuracy"]), float(row["low"]), float(row["high"])) == pytest.approx((0.3, low, high), abs=1e-6)
    assert row["status"] == "measured" and row["n"] == "200"


def test_terminal_table_fits_ninety_columns(runs: list[Path]) -> None:
    console = Console(file=io.StringIO(), width=96)
    console.print(terminal_table(runs))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "│  35.0 30–40" in text and "…" not in text  # noqa: RUF001
