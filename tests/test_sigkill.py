"""SIGKILL at three random moments: the resumed run ends with the undisturbed run's weights, bit for bit."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import build_tiny_clip, make_image_set, write_image_folder

from tima._files import sha256_file

FILES = ("model/model.safetensors", "checkpoint/trained.safetensors")


def command(*words: object) -> list[str]:
    return [sys.executable, "-c", "from tima.cli import main; main()", *map(str, words)]


def last_step(metrics: Path) -> int:
    """The last step that is written down, 0 before there is one."""
    steps = [int(n) for n in re.findall(r'"step": (\d+)', metrics.read_text())] if metrics.is_file() else []
    return steps[-1] if steps else 0


@pytest.mark.slow
def test_three_kills_change_nothing(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    images = make_image_set(n=120, classes=8)
    write_image_folder(images, tmp_path / "data" / "train")
    words = ["train", "--model", tmp_path / "model", "--data", tmp_path / "data", "--steps", 400, "--batch-size", 16, "--quiet"]
    words += ["val_every=40", "save_every=15", "val_samples=16", "val_attack_steps=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    subprocess.run(command(*words, "--out", tmp_path / "whole"), check=True, env=environment)
    chance = random.Random()
    for step in sorted(chance.sample(range(20, 380), 3)):
        process = subprocess.Popen(command(*words, "--out", tmp_path / "cut"), env=environment)
        while process.poll() is None and last_step(tmp_path / "cut" / "metrics.jsonl") < step:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    subprocess.run(command("train", "--resume", tmp_path / "cut", "--quiet"), check=True, env=environment)
    assert {f: sha256_file(tmp_path / "cut" / f) for f in FILES} == {f: sha256_file(tmp_path / "whole" / f) for f in FILES}
