"""Runs that are cut anywhere, short of memory or disk: they go on, lose nothing, and end with the same result."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip, make_image_set, write_image_folder
from evaluating import agreeing_set, comparable, counts, protocol_for, same_arrays

from tima.attacks import Stage, fgsm, pgd
from tima.errors import TimaError
from tima.evaluate import evaluate
from tima.evaluation.limits import Limits, out_of_memory
from tima.models.hugging_face import HuggingFaceEncoder
from tima.results import load_sidecar, read_result, result_path

PROTOCOL = protocol_for(eps="1/1020,2/255", adversarial_8bit=True, health_probe=4)
EVALUATION: dict[str, Any] = {"batch_size": 1, "gallery": 3, "progress": False}  # blocks of 8 images, so three an eps


def two_stages(watch: Any = lambda *_: None) -> list[Stage]:
    """FGSM, then PGD; `watch` is called before each."""

    def first(model, image, label, eps, **words):  # type: ignore[no-untyped-def]
        watch("first", eps)
        return fgsm(model, image, label, eps, **words)

    def second(model, image, label, eps, **words):  # type: ignore[no-untyped-def]
        watch("second", eps)
        return pgd(model, image, label, eps, steps=3, **words)

    return [Stage("first", first, {}), Stage("second", second, {})]


@pytest.fixture
def no_health(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe's adversarial images are kept and resumed like all others; the verdict itself takes seconds."""
    from tima.results import Health

    def assess(*_: Any, adversarial_BCHW: torch.Tensor, **__: Any) -> Health:
        return Health(verdict="reliable", reasons=[str(float(adversarial_BCHW.double().sum()))])  # sees any changed bit

    monkeypatch.setattr("tima.health.assess", assess)


def test_a_run_cut_before_any_attack_ends_as_an_undisturbed_one(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_health: None
) -> None:
    data = agreeing_set(tiny_clip, 20)
    calls: list[tuple[str, float]] = []
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: two_stages(lambda *call: calls.append(call)))
    whole = evaluate(tiny_clip, data, PROTOCOL, out=tmp_path / "whole", **EVALUATION)
    expected, arrays = comparable(whole), load_sidecar(result_path(tmp_path / "whole", "toy", PROTOCOL))
    total = len(calls)
    assert total >= 9
    for cut in sorted({0, 1, 3, total // 2, total - 1}):
        seen = 0

        def plug(*_: object, cut: int = cut) -> None:
            nonlocal seen
            seen += 1
            if seen == cut + 1:
                raise KeyboardInterrupt

        out = tmp_path / str(cut)
        monkeypatch.setattr("tima.evaluate.find_stages", lambda *_, plug=plug: two_stages(plug))
        with pytest.raises(KeyboardInterrupt):
            evaluate(tiny_clip, data, PROTOCOL, out=out, **EVALUATION)
        assert not read_result(result_path(out, "toy", PROTOCOL)).complete
        seen = total  # the plug holds from here on
        resumed = evaluate(tiny_clip, data, PROTOCOL, out=out, **EVALUATION)
        assert seen - total == total - cut  # only what was not done: nothing twice, not even inside an eps
        assert comparable(resumed) == expected
        assert same_arrays(load_sidecar(result_path(out, "toy", PROTOCOL)), arrays)
        assert [path.name for path in (out / "results").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("ending", ["begun", "block", "kept", "safetensors", "json"])
def test_a_full_disk_loses_only_what_was_being_written(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_health: None, ending: str
) -> None:
    data = agreeing_set(tiny_clip, 20)
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: two_stages())
    whole = evaluate(tiny_clip, data, PROTOCOL, out=tmp_path / "whole", **EVALUATION)
    seen = 0

    def flush(file: Path) -> None:
        nonlocal seen
        seen += f".{ending}." in file.name
        if seen == 2 and f".{ending}." in file.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tima._files._flush", flush)
        with pytest.raises(TimaError, match=r"Could not write .*No space left.*untouched"):
            evaluate(tiny_clip, data, PROTOCOL, out=tmp_path / "cut", **EVALUATION)
    resumed = evaluate(tiny_clip, data, PROTOCOL, out=tmp_path / "cut", **EVALUATION)
    assert comparable(resumed) == comparable(whole)


def test_another_batch_size_may_go_on(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_health: None
) -> None:
    data, seen = agreeing_set(tiny_clip, 20), 0

    def plug(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:  # the second block's first attack
            raise KeyboardInterrupt

    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: two_stages(plug))
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_clip, data, PROTOCOL, out=tmp_path, **EVALUATION)
    resumed = evaluate(tiny_clip, data, PROTOCOL, out=tmp_path, **{**EVALUATION, "batch_size": 3})
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: two_stages())
    assert counts(resumed) == counts(evaluate(tiny_clip, data, PROTOCOL, **EVALUATION))


def test_another_number_of_processes_may_go_on(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_health: None
) -> None:
    """What the second of two processes left is taken up by one."""
    data, seen = agreeing_set(tiny_clip, 20), 0

    def plug(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 4:  # one block finished, one between its two attacks
            raise KeyboardInterrupt

    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: two_stages(plug))
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_clip, data, PROTOCOL, out=tmp_path, **EVALUATION)
    (begun,) = (tmp_path / "results").glob(".*.work/0.0.*.begun")
    begun.rename(begun.with_name(begun.name.replace("0.0.", "0.1.", 1)))
    resumed = evaluate(tiny_clip, data, PROTOCOL, out=tmp_path, **EVALUATION)
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: two_stages())
    assert comparable(resumed) == comparable(evaluate(tiny_clip, data, PROTOCOL, **EVALUATION))


def test_memory_is_bounded_by_blocks() -> None:
    assert Limits(250).block((3, 224, 224)) == (256 << 20) // (3 * 224 * 224 * 4) == 445
    assert Limits(600).block((3, 224, 224)) == 600  # never less than a batch
    assert Limits(4).block((3, 32, 32)) == 32  # a kill loses little, however small the images are


def test_out_of_memory_halves_the_batch_and_is_recorded(tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    data, sizes = agreeing_set(tiny_clip, 20), []

    def hungry(model, image, label, eps, *, batch_size, **words):  # type: ignore[no-untyped-def]
        sizes.append(batch_size)
        if batch_size > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return pgd(model, image, label, eps, batch_size=batch_size, **words)

    protocol = protocol_for(eps="1/255")
    expected = evaluate(tiny_clip, data, protocol, progress=False)
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: [Stage("pgd", hungry, {"steps": 3})])
    result = evaluate(tiny_clip, data, protocol, batch_size=12, progress=False)
    assert sizes == [12, 6, 3]
    assert result.fallbacks == [f"out of memory in pgd at eps 1/255: batch halved to {size}" for size in (6, 3)]
    assert counts(result) == counts(expected)
    assert result.robust[0].attacks[0].attacked == 17


def test_more_restarts_than_memory_allows_at_once_end_in_smaller_batches_and_the_same_counts(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is short only where gradients are kept: the clean pass is done by then and stays."""
    encode = tiny_clip.encode_image

    def small_only(image: torch.Tensor, **words: Any) -> torch.Tensor:
        if image.requires_grad and len(image) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(image, **words)

    data, protocol = agreeing_set(tiny_clip, 20), protocol_for(eps="1/255", attack_params={"steps": 3, "restarts": 9})
    expected = evaluate(tiny_clip, data, protocol, progress=False)
    monkeypatch.setattr(tiny_clip, "encode_image", small_only)
    result = evaluate(tiny_clip, data, protocol, batch_size=16, progress=False)
    assert counts(result) == counts(expected)
    assert result.fallbacks == [f"out of memory in pgd at eps 1/255: batch halved to {size}" for size in (8, 4)]


def test_out_of_memory_in_the_model_is_met_in_the_clean_pass_too(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = tiny_clip.encode_image

    def small_only(image: torch.Tensor, **words: Any) -> torch.Tensor:
        if len(image) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(image, **words)

    data, protocol = agreeing_set(tiny_clip, 20), protocol_for(eps="1/255")
    expected = evaluate(tiny_clip, data, protocol, progress=False)
    monkeypatch.setattr(tiny_clip, "encode_image", small_only)
    result = evaluate(tiny_clip, data, protocol, batch_size=8, progress=False)
    assert (counts(result), result.fallbacks) == (counts(expected), ["out of memory in judging 'toy': batch halved to 4"])


def test_not_even_one_image_fits(tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(*_: object, **__: object) -> torch.Tensor:
        raise MemoryError

    data, protocol = agreeing_set(tiny_clip, 8), protocol_for(eps="1/1020,1/255")
    stages = [Stage("pgd", pgd, {"steps": 3})]
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: stages)
    whole = evaluate(tiny_clip, data, protocol, progress=False)
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: [Stage("pgd", hungry, {})])
    with pytest.raises(TimaError, match=r"Out of memory in pgd at eps 0\.25/255 with a single image"):
        evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: stages)
    assert counts(evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)) == counts(whole)


def test_other_errors_are_no_shortage_of_memory() -> None:
    assert not out_of_memory(RuntimeError("size mismatch"))
    assert not out_of_memory(ValueError("1"))


@pytest.mark.slow
def test_sigkill_anywhere_changes_nothing(tokenizer: Any, tmp_path: Path) -> None:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    write_image_folder(make_image_set(n=240, classes=6), tmp_path / "toy" / "test")
    words = ["evaluate", "--model", tmp_path / "model", "--data", tmp_path / "toy", "--steps", 60, "--eps", "0.1/255,2/255"]
    words += ["--batch-size", 1, "--quiet", "--no-health"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(out: str) -> list[str]:
        start = [sys.executable, "-c", "from tima.cli import main; main()"]
        return [*start, *map(str, words), "--out", str(tmp_path / out)]

    subprocess.run(command("whole"), check=True, env=environment, stdout=subprocess.DEVNULL)
    kills = 0
    for files in (1, 2):  # so many finished blocks of the first eps have been seen
        process = subprocess.Popen(command("cut"), env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(tmp_path.glob("cut/results/.*.work/0.*.block"))) < files:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills, "the run was over before it was killed"
    subprocess.run(command("cut"), check=True, env=environment, stdout=subprocess.DEVNULL)
    (whole,) = (tmp_path / "whole" / "results").glob("*.json")
    cut = tmp_path / "cut" / "results" / whole.name
    assert comparable(read_result(cut)) == comparable(read_result(whole))
    assert same_arrays(load_sidecar(cut), load_sidecar(whole))
