"""Classes with the same prompts: refused, merged or kept, and recorded."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_image_set, write_image_folder
from evaluating import comparable, protocol_for
from typer.testing import CliRunner

from tima.cli import app
from tima.data import ImageSet
from tima.data.image_set import same_names_allowed
from tima.errors import DataError
from tima.evaluate import evaluate
from tima.evaluation.same_prompts import merging, same_prompts
from tima.models.hugging_face import HuggingFaceEncoder
from tima.protocols import load_protocol
from tima.results import load_sidecar, read_result, result_path


def cranes(n: int = 24) -> ImageSet:
    """Four classes, of which the second and the last have one name."""
    with same_names_allowed():
        return replace(make_image_set(n, 4), class_names=["cat", "boat", "tree", "Boat "])


def test_tokens_are_compared_not_names(tiny_clip: HuggingFaceEncoder) -> None:
    long = "small tree " * 60
    names = ["cat", long + "left", "CAT", "dog", long + "right", "a cat"]
    assert same_prompts(tiny_clip, names, ["a photo of {c}"]) == [[0, 2], [1, 4]]
    # one template that tells two classes apart is enough
    assert same_prompts(tiny_clip, names, ["{c}", "a photo of {c}"]) == [[0, 2], [1, 4]]
    behind = ["{c}", "apple " * 90 + "{c}"]
    assert same_prompts(tiny_clip, ["cat", "dog"], behind[1:]) == [[0, 1]]
    assert same_prompts(tiny_clip, ["cat", "dog"], behind) == same_prompts(tiny_clip, ["cat", "dog"], behind[::-1]) == []


def test_merging_keeps_the_order() -> None:
    class_C, first = merging([[1, 4], [2, 3, 6]], 7)
    assert (class_C.tolist(), first) == ([0, 1, 2, 2, 1, 3, 2], [0, 1, 2, 5])


def test_refused_by_default_with_the_list(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"toy: .*boat \(class 1\), Boat  \(class 3\).*'merge'.*'keep'"):
        evaluate(tiny_clip, cranes(), protocol_for(), out=tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.json"))
    with pytest.raises(DataError, match="given twice"):  # training and all else that opens sets
        replace(make_image_set(), class_names=["cat", "boat", "tree", "boat"])


def test_merged_classes_count_as_one(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    protocol = protocol_for(duplicate_prompts="merge")
    result = evaluate(tiny_clip, cranes(), protocol, out=tmp_path, progress=False)
    assert result.class_names == ["cat", "boat", "tree"]
    assert result.class_counts == [6, 12, 6]
    assert result.duplicate_prompts == [["boat (class 1)", "Boat  (class 3)"]]
    by_hand = replace(make_image_set(24, 4), class_names=["cat", "boat", "tree"], label_B=torch.arange(24) % 4 % 3)
    label_B = torch.tensor([[0, 1, 2, 1][i % 4] for i in range(24)])
    plain = evaluate(tiny_clip, replace(by_hand, label_B=label_B), protocol, progress=False)
    expected = {**comparable(plain), "duplicate_prompts": result.duplicate_prompts}
    assert comparable(result) == expected
    assert read_result(result_path(tmp_path, "toy", protocol)) == result
    assert evaluate(tiny_clip, cranes(), protocol, out=tmp_path, progress=False) == result  # nothing is done twice


def test_kept_classes_share_a_text_and_stay_two(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    protocol = protocol_for(duplicate_prompts="keep")
    result = evaluate(tiny_clip, cranes(), protocol, out=tmp_path, progress=False)
    assert result.class_names == ["cat", "boat", "tree", "Boat "]
    assert result.class_counts == [6, 6, 6, 6]
    assert result.duplicate_prompts == [["boat (class 1)", "Boat  (class 3)"]]
    arrays = load_sidecar(result_path(tmp_path, "toy", protocol))
    twins = (arrays["label_N"] == 1) | (arrays["label_N"] == 3)
    assert float(arrays["margin_EN"][0][twins].max()) <= 1e-5  # at best a draw with the other class


@pytest.mark.parametrize("way", ["merge", "keep"])
def test_a_set_of_one_text_is_refused(way: str, tiny_clip: HuggingFaceEncoder) -> None:
    with same_names_allowed():
        alike = replace(make_image_set(8, 2), class_names=["boat", "Boat"])
    with pytest.raises(DataError, match="all 2 classes are one text"):
        evaluate(tiny_clip, alike, protocol_for(duplicate_prompts=way), progress=False)


def test_hashes_and_files_of_before_stay_valid(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    protocol = load_protocol("pgd")
    content = protocol.content()
    del content["duplicate_prompts"]
    assert type(protocol)(**content) == protocol
    assert len({protocol.override(duplicate_prompts=way).sha256 for way in ("error", "merge", "keep")}) == 3
    assert protocol.override(duplicate_prompts="error") is protocol
    mine = protocol_for()
    result = evaluate(tiny_clip, make_image_set(), mine, out=tmp_path, progress=False)
    path = result_path(tmp_path, "toy", mine)
    stored = json.loads(path.read_text())
    assert stored["schema"] == "tima-result/4" and stored["duplicate_prompts"] == []
    del stored["duplicate_prompts"], stored["protocol"]["duplicate_prompts"]
    path.write_text(json.dumps({**stored, "schema": "tima-result/3"}))
    assert read_result(path).robust == result.robust
    assert evaluate(tiny_clip, make_image_set(), mine, out=tmp_path, progress=False).clean == result.clean


def test_the_command_line(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    model, data, out = tmp_path / "model", tmp_path / "pictures", tmp_path / "out"
    tiny_clip.save_pretrained(model)
    write_image_folder(cranes(8), data)
    words = [
        "evaluate",
        "--model",
        str(model),
        "--data",
        str(data),
        "--out",
        str(out),
        "--eps",
        "1/255",
        "--steps",
        "1",
        "--quiet",
    ]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code != 0 and "duplicate_prompts" in json.loads(next(out.glob("missing/*.json")).read_text())["why"]
    assert CliRunner().invoke(app, [*words, "--duplicate-prompts", "merge"]).exit_code == 0
    stored = json.loads(next(out.glob("results/*.json")).read_text())
    assert len(stored["class_names"]) == 3 and len(stored["duplicate_prompts"]) == 1
    assert stored["protocol"]["duplicate_prompts"] == "merge"
