"""Two processes attack their shares of the images and end with the result of one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip, make_image_set, write_image_folder
from evaluating import agreeing_set, counts, protocol_for, same_arrays
from spawned import free_port, leaves

from tima.errors import DataError
from tima.evaluate import evaluate
from tima.evaluation.missing import read_missing
from tima.evaluation.shards import Shards
from tima.results import load_results, load_sidecar, read_result, result_path

PROTOCOL = protocol_for(eps="1/1020,2/255", adversarial_8bit=True)
LAUNCH = Path(__file__).parents[1] / "examples" / "launch"
WORDS: dict[str, Any] = {"batch_size": 4, "gallery": 3, "progress": False}


@leaves
def work(rank: int, world_size: int, port: int, folder: str) -> None:
    """One of the processes that `torchrun` would start."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    from tima.models import load_model

    model = load_model(f"{folder}/model")
    data = agreeing_set(model, 21)  # type: ignore[arg-type]
    shards = Shards.join()
    assert (shards.rank, shards.size) == (rank, world_size), "the processes did not find each other"
    if rank == 1:  # this process attacks, and never writes the result
        import tima.evaluation.store as store

        store.Store.save = lambda *_: sys.exit("rank 1 wrote a result")  # type: ignore[method-assign, assignment]
    kept = evaluate(model, data, PROTOCOL, out=Path(folder) / "two", **WORDS)
    loose = evaluate(model, data, PROTOCOL, **WORDS)  # in a temporary folder that both must agree on
    assert counts(kept) == counts(loose)
    Path(folder, f"rank{rank}.json").write_text(str([world_size, *counts(kept)]))


def test_two_processes_equal_one(tokenizer: Any, tmp_path: Path) -> None:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    torch.multiprocessing.spawn(work, (2, free_port(), str(tmp_path)), nprocs=2)
    from tima.models import load_model

    model = load_model(str(tmp_path / "model"))
    one = evaluate(model, agreeing_set(model, 21), PROTOCOL, out=tmp_path / "one", **WORDS)  # type: ignore[arg-type]
    paths = [result_path(tmp_path / name, "toy", PROTOCOL) for name in ("one", "two")]
    two = read_result(paths[1])
    for rank in (0, 1):
        assert (tmp_path / f"rank{rank}.json").read_text() == str([2, *counts(one)])
    assert two.machine is not None and two.machine["processes"] == "2"
    before, after = map(load_sidecar, paths)
    exact = ("index_N", "label_N", "correct_N", "robust_EN", "prediction_EN", "broken_by_EN", "broken_8bit_EN")
    assert same_arrays({k: before[k] for k in exact}, {k: after[k] for k in exact})
    torch.testing.assert_close(after["margin_EN"], before["margin_EN"])
    for row, other in zip(one.robust, two.robust, strict=True):
        assert [(a.attacked, a.broken) for a in row.attacks] == [(a.attacked, a.broken) for a in other.attacks]
    assert [path.name for path in paths[1].parent.iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_torchrun_and_accelerate_launch_start_the_command_line(tokenizer: Any, tmp_path: Path) -> None:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    write_image_folder(make_image_set(n=24, classes=4), tmp_path / "toy" / "test")
    words = ["-m", "tima", "evaluate", "--model", tmp_path / "model", "--data", tmp_path / "toy", "--steps", 3]
    words += ["--eps", "1/255", "--no-health"]
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"} | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    # the plain flags `--cpu --num_processes 2` start one process and say nothing
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "2cpu.yaml")]
    accelerate += [f"--main_process_port={free_port()}"]
    found = []
    for number, start in enumerate(([sys.executable], torchrun, accelerate)):
        out = tmp_path / str(number)
        line = [*map(str, [*start, *words, "--out", out])]
        done = subprocess.run(line, check=True, env=environment, capture_output=True, text=True)
        assert done.stdout.count("Results:") == 1  # one process prints
        (path,) = (out / "results").glob("*.json")
        found.append(read_result(path))
    assert counts(found[0]) == counts(found[1]) == counts(found[2])
    assert [result.machine["processes"] for result in found if result.machine] == ["1", "2", "2"]


@leaves
def fail_one_set(rank: int, world_size: int, port: int, folder: str) -> None:
    """Process 1 cannot judge the first set; the other waits for it in the middle of the clean pass."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    import tima.evaluation.run as course
    from tima.cli.jobs import evaluate_run

    whole = course.run_clean

    def spoilt(judge: Any, result: Any) -> None:
        if rank == 1 and result.dataset == "bad":
            raise DataError("picture 3 was readable before")
        whole(judge, result)

    course.run_clean = spoilt
    sets = [f"{folder}/{name}" for name in ("bad", "good")]
    words: dict[str, Any] = {"batch_size": 4, "gallery": 0, "progress": False, "device": "cpu"}
    failed = evaluate_run(f"{folder}/model", sets, protocol_for(eps="1/255"), Path(folder) / "run", **words)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(failed))


def test_a_set_that_fails_in_one_process_ends_in_all_and_the_next_one_is_whole(tokenizer: Any, tmp_path: Path) -> None:
    """Else one process would wait for days, or the two would be at different sets from there on."""
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    for name in ("bad", "good"):
        write_image_folder(make_image_set(n=12, classes=4), tmp_path / name / "test")
    torch.multiprocessing.spawn(fail_one_set, (2, free_port(), str(tmp_path)), nprocs=2)
    said = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert [list(map(os.path.basename, words)) for words in said] == [["bad"], ["bad"]]
    why = "picture 3 was readable before"
    assert next(iter(said[0].values())) == f"Process 1 of 2 could not go on: {why}" and next(iter(said[1].values())) == why
    (result,) = load_results(tmp_path / "run")
    assert (result.dataset, result.n, result.complete) == ("good", 12, True)
    (record,) = read_missing(tmp_path / "run")  # written by the process that writes
    assert os.path.basename(record.data) == "bad" and why in record.why


def test_shares_are_even_and_complete() -> None:
    shares = [Shards(rank, 3).share(torch.arange(10)) for rank in range(3)]
    assert [len(share) for share in shares] == [4, 3, 3]
    assert torch.cat(shares).sort().values.tolist() == list(range(10))


def test_one_process_does_not_wait() -> None:
    alone = Shards.join()
    alone.wait()
    assert (alone.rank, alone.size, alone.main, alone.agree("x")) == (0, 1, True, "x")
