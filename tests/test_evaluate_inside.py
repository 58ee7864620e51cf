"""An attack that is cut between two of its steps goes on there, and ends with the bits of one that nothing happened to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip, write_image_folder
from evaluating import agreeing_set, comparable, counts, same_arrays
from small_net import Net, make_batch
from torch import Tensor

from tima.evaluate import evaluate_classifier
from tima.evaluation.inside import STATE
from tima.evaluation.parts import read_tensors, write_tensors
from tima.models import load_model
from tima.protocols import Protocol, load_protocol
from tima.results import Result, load_sidecar, read_result, result_path

ATTACKS: dict[str, dict[str, Any]] = {
    "pgd": {"attack": "pgd", "attack_params": {"steps": 6, "restarts": 3}},
    "mi-fgsm": {"attack": "mi-fgsm", "attack_params": {"steps": 9}},
    "apgd": {"attack": "apgd", "attack_params": {"steps": 8, "restarts": 2}},
    "fab, untargeted": {"attack": "fab", "attack_params": {"steps": 5, "targets": 0, "restarts": 2}},
    "noise": {"attack": "noise", "attack_params": {"tries": 20}},
    "cw": {"attack": "cw", "attack_params": {"steps": 6, "searches": 3}, "norm": "l_2", "eps": "0.1,0.3"},
    "square, l_2": {"attack": "square", "attack_params": {"queries": 40}, "norm": "l_2", "eps": "0.3,0.8"},
    "autoattack": {"attack": "autoattack", "attack_params": {"steps": 5, "targets": 2, "queries": 30}},
}
BATCH = {"batch_size": 4, "progress": False}  # 10 images: the batch is refilled inside the attack


class Cut:
    """The net; the process "dies" at call number `after`."""

    def __init__(self, after: int | None = None) -> None:
        self.net, self.after, self.calls = Net().eval().requires_grad_(False), after, 0

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        if self.calls == self.after:
            raise KeyboardInterrupt
        self.calls += 1
        return self.net(image_BCHW)  # type: ignore[no-any-return]


def protocol_of(name: str) -> Protocol:
    fields = {"eps": "2/255,6/255", "samples": None, "health_probe": 0, **ATTACKS[name]}
    return load_protocol("pgd").override(**fields)


def judged(model: Cut, protocol: Protocol, out: Path, **words: Any) -> Result:
    with torch.no_grad():
        data = make_batch(model.net, 10)
    return evaluate_classifier(model, data, protocol, name="net", checkpoint="net", out=out, **{**BATCH, **words})


def stored(out: Path, protocol: Protocol) -> dict[str, Tensor]:
    return load_sidecar(result_path(out, "images", protocol))


@pytest.mark.parametrize("name", ATTACKS)
def test_cut_between_two_steps_it_goes_on_with_the_next(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tima.evaluation.inside.EVERY", 0.0)
    monkeypatch.setattr("tima.attacks._square.CHUNK", 16)  # so that numbers are drawn anew before and after a cut
    protocol, undisturbed = protocol_of(name), Cut()
    whole = judged(undisturbed, protocol, tmp_path / "whole")
    assert counts(whole)[2] < 10 or name == "noise", "nothing was broken"
    seen_inside = 0
    for share in (0.25, 0.5, 0.75):
        out, cut = tmp_path / str(share), Cut(int(share * undisturbed.calls))
        with pytest.raises(KeyboardInterrupt):
            judged(cut, protocol, out)
        seen_inside += len(list(out.glob("results/.*.work/*.inside")))
        resumed = Cut()
        assert comparable(judged(resumed, protocol, out)) == comparable(whole), "the costs are in it too"
        assert same_arrays(stored(out, protocol), stored(tmp_path / "whole", protocol))
        # again: the step that was cut (two calls at most), the search for targets, the look at the end of an attack
        assert resumed.calls <= undisturbed.calls - cut.calls + 8
        assert [path.name for path in (out / "results").iterdir() if path.is_dir()] == []
    assert seen_inside, "no cut fell inside an attack"


def test_another_batch_size_or_a_damaged_or_an_older_state_begins_the_attack_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tima.evaluation.inside.EVERY", 0.0)
    protocol, undisturbed = protocol_of("apgd"), Cut()
    whole = judged(undisturbed, protocol, tmp_path / "whole")
    for name, words in (("smaller", {"batch_size": 3}), ("damaged", {}), ("older", {})):
        out = tmp_path / name
        with pytest.raises(KeyboardInterrupt):
            judged(Cut(undisturbed.calls // 3), protocol, out)
        (state,) = out.glob("results/.*.work/*.inside")
        if name == "damaged":
            state.write_bytes(state.read_bytes()[:100])
        if name == "older":  # of a search that kept less
            tensors, facts = read_tensors(state)
            write_tensors(state, {"found": tensors["found"]}, facts)
            monkeypatch.setattr("tima.evaluation.inside.STATE", STATE + 1)
        assert counts(judged(Cut(), protocol, out, **words)) == counts(whole)


def test_nothing_is_kept_of_what_takes_minutes(tmp_path: Path) -> None:
    protocol = protocol_of("pgd")
    with pytest.raises(KeyboardInterrupt):
        judged(Cut(20), protocol, tmp_path)
    assert list(tmp_path.glob("results/.*.work/*.inside")) == []


OFTEN = "import tima.evaluation.inside as inside; inside.EVERY = 0.02; from tima.cli import main; main()"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigkill_inside_an_attack_changes_nothing(tokenizer: Any, tmp_path: Path) -> None:
    """Through the command line, with all four attacks of AutoAttack on one block; killed where the state has just changed."""
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    model = load_model(str(tmp_path / "model"))
    # some images stand for long
    write_image_folder(agreeing_set(model, 12, wrong=2), tmp_path / "toy" / "test")  # type: ignore[arg-type]
    words = ["evaluate", "--model", tmp_path / "model", "--data", tmp_path / "toy", "--attack", "autoattack", "--steps", 10]
    words += ["--queries", 400, "--eps", "1/2550,1/510", "--batch-size", 8, "--samples", 0, "--quiet", "--no-health"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(out: str) -> list[str]:
        return [sys.executable, "-c", OFTEN, *map(str, words), "--out", str(tmp_path / out)]

    subprocess.run(command("whole"), check=True, env=environment, stdout=subprocess.DEVNULL)
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(command("cut"), env=environment, stdout=subprocess.DEVNULL)
        changes: set[int] = set()
        while process.poll() is None and len(changes) < 5:
            for path in tmp_path.glob("cut/results/.*.work/*.inside"):
                try:
                    changes.add(path.stat().st_mtime_ns)
                except FileNotFoundError:  # the attack has just ended
                    continue
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL and bool(changes)
    assert kills, f"the run was over before it was killed; states seen: {len(changes)}"
    subprocess.run(command("cut"), check=True, env=environment, stdout=subprocess.DEVNULL)
    (whole,) = (tmp_path / "whole" / "results").glob("*.json")
    cut = tmp_path / "cut" / "results" / whole.name
    assert comparable(read_result(cut)) == comparable(read_result(whole))
    assert same_arrays(load_sidecar(cut), load_sidecar(whole))
