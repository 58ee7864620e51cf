"""A study that is stopped anywhere, again and again, ends with the same kept file. Slow: real workers, killed by the system."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from studying import build_world, same, study_values, write_study

import tima._files
from tima.study import collect, load_study, run_study
from tima.study.run import _share


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    return build_world(tokenizer, tmp_path_factory.mktemp("world"))


def test_stopped_at_any_write_it_goes_on_to_the_same(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = study_values(world, seeds=[0], search={"grid": {"lr": [0.001, 0.002]}, "settings": {"steps": 2}}, claims=[])
    values["rows"].pop("tima")
    study = load_study(write_study(tmp_path / "toy.yaml", values))
    run_study(study, tmp_path / "whole", workers=0, progress=False)
    flush, left = tima._files._flush, [0]

    def bomb(file: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        flush(file)

    monkeypatch.setattr(tima._files, "_flush", bomb)
    stops = 0
    for allowed in (1, 3, 7, 4, 11, 5, 13, 6, 17, 8, *range(20, 200, 10)):
        left[0] = allowed
        try:
            outcome = run_study(study, tmp_path / "parts", workers=0, progress=False)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 5 and outcome.failed == {}
    monkeypatch.setattr(tima._files, "_flush", flush)
    assert same(collect(study, tmp_path / "parts")) == same(collect(study, tmp_path / "whole"))


def test_workers_get_cores_of_their_own() -> None:
    assert [_share([2, 3, 5, 7], slot, 2) for slot in range(3)] == [[2, 3], [5, 7], [2, 3]]
    assert [_share([4], slot, 1) for slot in range(2)] == [[4], [4]] and _share([0, 1], 0, 8) == [0, 1]


def alive(text: str) -> list[int]:
    """Processes whose command line has this text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text in entry.read_bytes().decode(errors="replace").replace("\0", " "):
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for orphans in /proc")
def test_killed_by_the_system_with_two_workers(world: Path, tmp_path: Path) -> None:
    file = write_study(tmp_path / "toy.yaml", study_values(world))
    study = load_study(file)
    run_study(study, tmp_path / "whole", workers=0, progress=False)
    words = [
        sys.executable,
        "-m",
        "tima",
        "study",
        str(file),
        "--out",
        str(tmp_path / "parts"),
        "--workers",
        "2",
        "--threads",
        "1",
    ]
    folder = tmp_path / "parts" / "toy"

    def count() -> int:
        return sum(1 for _ in folder.glob("runs/*/summary.json")) + sum(1 for _ in folder.glob("runs/*/results/*.json"))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for wanted in (0, 2, 9):
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        began = time.monotonic()
        while not ((count() > wanted and alive(str(folder))) or process.poll() is not None):
            assert time.monotonic() - began < 240
            time.sleep(0.2)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 20
        while alive(str(folder)):
            assert time.monotonic() < deadline, "workers outlive the study"
            time.sleep(0.2)
    process = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert same(collect(study, folder)) == same(collect(study, tmp_path / "whole"))
    assert (tmp_path / "parts" / "results.html").is_file()


@pytest.mark.slow
def test_a_worker_that_is_killed_is_a_failure_of_its_run_alone(world: Path, tmp_path: Path) -> None:
    import threading

    values = study_values(world, seeds=[0], search=None, claims=[])
    values["base"] = {**values["base"], "steps": 400, "val_every": 400}
    values["rows"]["tima"]["settings"] = {"steps": 2, "val_every": 2}
    study = load_study(write_study(tmp_path / "toy.yaml", values))

    def kill_first() -> None:
        while not (found := [p for p in alive(f"{tmp_path}/out/workers/0.json") if (tmp_path / "out").is_dir()]):
            time.sleep(0.1)
        while not any((tmp_path / "out").glob("runs/tecoa-*/metrics.jsonl")):
            time.sleep(0.1)
        os.kill(found[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_first)
    thread.start()
    outcome = run_study(study, tmp_path / "out", workers=2, threads=1, progress=False)
    thread.join()
    assert outcome.failed.keys() == {"tecoa, seed 0: train"} and "SIGKILL" in outcome.failed["tecoa, seed 0: train"]
    assert outcome.finished == ["tima, seed 0: train", "tima, seed 0: custom@1"]
