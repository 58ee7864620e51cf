"""Attack health inside an evaluation: what it is shown, short memory, and runs that go on with other wishes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import agreeing_set, comparable, counts, protocol_for

from tima.errors import TimaError
from tima.evaluate import evaluate
from tima.models.hugging_face import HuggingFaceEncoder
from tima.report.compare import compare
from tima.report.runs import read_runs
from tima.report.verdicts import verdict_words
from tima.results import Health, load_sidecar, result_path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `assess` was called with, in place of the call."""
    calls: list[dict[str, Any]] = []

    def assess(logits_fn, image, label, eps, **words):  # type: ignore[no-untyped-def]
        calls.append({"logits_fn": logits_fn, "image": image, "label": label, "eps": eps, **words})
        return Health(verdict="reliable", probe_n=len(image))

    monkeypatch.setattr("tima.health.assess", assess)
    return calls


@pytest.mark.parametrize(("precision", "another"), [("fp32", False), ("bf16", True)])
def test_behind_a_resize_too_only_another_precision_is_another_model(
    tiny_clip: HuggingFaceEncoder,
    seen: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    another: bool,
) -> None:
    """Else health compares the judge with itself, and says of fp32 that its precision was measured."""
    monkeypatch.setattr("tima.evaluation.subject.has_bf16", lambda device: True)
    protocol = protocol_for(pixel_grid="data set", health_probe=3, precision=precision, eps="1/1020")
    evaluate(tiny_clip, agreeing_set(tiny_clip, size=8), protocol, progress=False)
    (call,) = seen
    assert call["image"].shape[-1] == 8
    assert (call["attack_fn"] is not None) == another


def test_a_probe_too_large_for_memory_is_halved_and_the_batch_stays(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def assess(_: Any, image: torch.Tensor, *__: Any, robust_B: torch.Tensor, **___: Any) -> Health:
        sizes.append(len(image))
        if len(image) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        assert len(robust_B) == len(image)
        return Health(verdict="reliable", probe_n=len(image))

    monkeypatch.setattr("tima.health.assess", assess)
    data, protocol, fits = agreeing_set(tiny_clip), protocol_for(health_probe=8, eps="1/1020"), 2
    result = evaluate(tiny_clip, data, protocol, progress=False)
    assert sizes == [8, 4, 2]
    assert result.robust[0].health is not None and result.robust[0].health.probe_n == 2
    assert result.fallbacks == [f"out of memory in attack health: probe halved to {n} images" for n in (4, 2)]
    fits = 0  # the numbers do not depend on it, so they are not lost
    without = evaluate(tiny_clip, data, protocol, progress=False)
    assert (counts(without), without.complete, without.robust[0].health) == (counts(result), True, None)
    assert without.fallbacks[-1] == "out of memory in attack health with a single image: no verdict"


@pytest.mark.parametrize(("first", "then"), [(0, 9), (9, 0), (4, 9)])
@pytest.mark.parametrize("stored", [True, False])
def test_a_run_that_goes_on_keeps_probe_and_8_bits_of_the_first_call(
    tiny_clip: HuggingFaceEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: list[dict[str, Any]],
    first: int,
    then: int,
    stored: bool,
) -> None:
    """Both are outside the hash, and the images kept so far are those of the first call."""
    data = agreeing_set(tiny_clip)
    begun = protocol_for(health_probe=first, adversarial_8bit=stored)
    whole = evaluate(tiny_clip, data, begun, out=tmp_path / "whole", gallery=3, progress=False)
    probes = [call["image"] for call in seen]

    def full(*_: object) -> None:
        raise TimaError("no space left")

    with monkeypatch.context() as patch, pytest.raises(TimaError, match="no space"):
        patch.setattr("tima.evaluation.run.fill_gallery", full)
        evaluate(tiny_clip, data, begun, out=tmp_path, gallery=3, progress=False)
    seen.clear()
    other = protocol_for(health_probe=then, adversarial_8bit=not stored)
    assert other.sha256 == begun.sha256
    result = evaluate(tiny_clip, data, other, out=tmp_path, gallery=3, progress=False)
    assert comparable(result) == comparable(whole)
    assert len(seen) == len(probes) and all(torch.equal(call["image"], p) for call, p in zip(seen, probes, strict=True))
    expected = load_sidecar(result_path(tmp_path / "whole", "toy", begun))
    arrays = load_sidecar(result_path(tmp_path, "toy", begun))
    assert arrays.keys() == expected.keys() and all(torch.equal(arrays[key], expected[key]) for key in expected)


def test_every_eps_gets_the_memory_of_its_probe(tiny_clip: HuggingFaceEncoder, seen: list[dict[str, Any]]) -> None:
    evaluate(tiny_clip, agreeing_set(tiny_clip), protocol_for(health_probe=4), progress=False)
    assert len(seen) == 3 and len({id(call["memory"]) for call in seen}) == 1


def test_without_a_right_image_the_verdict_is_that_there_is_none(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    """It was null, as if nobody had asked; the report must not call such a number reliable either."""
    data = agreeing_set(tiny_clip, wrong=25)
    protocol = protocol_for(health_probe=4)
    result = evaluate(tiny_clip, data, protocol, out=tmp_path / "run", progress=False)
    assert counts(result) == [0, 0, 0, 0]
    for entry in result.robust:
        assert entry.health is not None and entry.health.verdict == "cannot judge" and entry.health.reasons
    (comparison,) = compare(read_runs([tmp_path / "run"]))
    (row,) = comparison.data_sets[0].cells
    assert verdict_words(row[1:], comparison.columns[1:]) == "no verdict"
