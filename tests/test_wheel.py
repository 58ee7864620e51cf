"""A clean wheel in an environment of its own: first without an extra, then with `serve`, each as a user would run it."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import png
from spawned import free_port

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import setup_env  # noqa: E402

CLASSES = ["a cat", "a dog", "a ship"]


class Environment:
    """A fresh virtual environment in a folder; its commands run in that folder and know nothing of this checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "venv" / "bin"
        venv.create(folder / "venv", with_pip=True)
        hidden = ("PYTHON", "PYTEST", "COV_", "VIRTUAL_ENV", "TIMA_", "HF_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | {"HF_HUB_OFFLINE": "1"}

    def pip(self) -> list[str]:
        return [str(self.bin / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=self.folder, env=self.env, capture_output=True, text=True)

    def tima(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run(str(self.bin / "tima"), *words)

    @contextmanager
    def served(self) -> Iterator[str]:
        """`tima serve` while the block lasts; SIGTERM ends it, as a supervisor would."""
        port = free_port()
        command = [str(self.bin / "tima"), "serve", "--model", "nano", "--port", str(port)]
        process = subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            ends = time.monotonic() + 600
            while True:
                try:
                    ask(f"http://127.0.0.1:{port}/healthz")
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert process.poll() is None and time.monotonic() < ends, process.communicate()[0]
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=60)[0].decode()
        assert "Traceback" not in said, said


def ask(address: str, body: dict[str, Any] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_clean_wheel_predicts_and_serves(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("tima-*.whl")
    there = Environment(tmp_path)
    setup_env.install_torch(there.pip(), os.environ.get("TORCH_INDEX", ""))
    pinned = ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*there.pip(), *pinned, str(wheel)], check=True)
    place = there.run(str(there.bin / "python"), "-c", "import tima; print(tima.__file__)").stdout.strip()
    assert Path(place).is_relative_to(there.folder), f"{place} is not what was installed"

    picture = png(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    (tmp_path / "photo.png").write_bytes(picture)
    done = there.tima("predict", "--model", "nano", "--classes", ", ".join(CLASSES), "photo.png")
    assert done.returncode == 0, done.stderr
    shares = {line.rsplit(" %", 1)[0].rsplit(None, 1)[0].strip(): line for line in done.stdout.splitlines() if " %" in line}
    said = {name: float(shares[name].split(" %")[0].split()[-1]) for name in CLASSES}
    assert abs(sum(said.values()) - 100) < 0.2, done.stdout

    without = there.tima("serve", "--model", "nano")
    assert without.returncode == 1 and 'pip install "tima[serve]"' in without.stderr
    subprocess.run([*there.pip(), *pinned, f"{wheel}[serve]"], check=True)
    with there.served() as address:
        body = {"image": base64.b64encode(picture).decode(), "classes": CLASSES, "templates": ["a photo of {c}."]}
        (found,) = json.loads(ask(f"{address}/v1/classify", body))["results"]
        for name, share in zip(CLASSES, found["probabilities"], strict=True):
            assert abs(100 * share - said[name]) < 0.06, "the server and the command answer alike"
        assert b"<title>tima</title>" in ask(address) and b"startPicture" in ask(f"{address}/static/main.js")
