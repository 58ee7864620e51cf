"""Result files: valid, whole, and honest about what they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from tima.errors import ResultError
from tima.protocols import load_protocol
from tima.results import Result, load_results, load_sidecar, read_result, result_path, versions, write_result


def make_result(**changes: Any) -> Result:
    protocol = load_protocol("pgd").override(eps="2/255,4/255")
    rows = [
        {
            "eps": eps / 255, "eps_text": f"{eps}/255", "n": 10, "correct": correct, "robust_accuracy": correct / 10,
            "ci95": [0.1, 0.9], "already_broken": before,
            "attacks": [{"name": "pgd", "params": {"steps": 20}, "broken": broken}],
            "forwards": 5, "backwards": 4, "wall_time_s": 0.5,
        }
        for eps, correct, before, broken in ((2, 6, 2, 2), (4, 3, 4, 3))
    ]  # fmt: skip
    values: dict[str, Any] = {
        "dataset": "toy", "model": "m", "pretrained": "p", "metrics": {"acc1": 0.8, "acc5": None, "mean_per_class_recall": 0.7},
        "clean": {"n": 10, "correct": 8, "accuracy": 0.8, "ci95": [0.4, 0.9]}, "robust": rows, "attack": "pgd", "norm": "l_inf",
        "n": 10, "seed": 0, "class_names": ["a", "b"], "templates": ["{c}"], "protocol": protocol.content(),
        "checkpoint_sha256": "0" * 64, "versions": versions(), "quarantine": [{"where": "x.png", "why": "cut"}],
        "train_domain": False, "wall_time_s": 1.5, "complete": True,
    }  # fmt: skip
    return Result(**{**values, **changes})


def test_round_trip_and_access_like_the_json(tmp_path: Path) -> None:
    result, path = make_result(), tmp_path / "results" / "toy.pgd.json"
    write_result(path, result)
    assert read_result(path) == result
    stored = json.loads(path.read_text())
    assert stored["schema"] == result["schema"] == "tima-result/4"
    assert result["clean"]["accuracy"] == stored["clean"]["accuracy"] == 0.8
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= set(stored)  # CLIP_benchmark's record
    with pytest.raises(KeyError):
        result["nothing"]
    assert load_results(tmp_path) == [result]


def _broken(row: dict[str, Any], count: int) -> dict[str, Any]:
    return {**row, "attacks": [{**row["attacks"][0], "broken": count}]}


def test_contradictions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    good = make_result().to_json()

    def refused(message: str, **changes: Any) -> None:
        path.write_text(json.dumps({**good, **changes}))
        with pytest.raises(ResultError, match=message):
            read_result(path)

    robust = good["robust"]
    refused("7 correct at eps 4/255, but only 6 at 2/255", robust=[robust[0], {**robust[1], "correct": 7}])
    refused("9 correct at eps 2/255, but only 8 at clean", robust=[{**robust[0], "correct": 9}, robust[1]])
    refused("counts of images differ", n=11)
    refused("rising order", robust=[robust[0], {**robust[1], "eps": robust[0]["eps"]}])
    refused("6 correct, 2 already broken and 1 broken .* do not add up to 10", robust=[_broken(robust[0], 1), robust[1]])
    refused("5 correct, 3 already broken", robust=[{**robust[0], "correct": 5, "already_broken": 3}, robust[1]])  # clean: 8
    refused("complete with 1 of 2 eps", robust=robust[:1])
    refused("schema", schema="other/9")
    refused("wall_time_s", wall_time_s=-1)
    refused("nonsense", nonsense=1)
    refused("needs the protocol that it was measured by; its name, version, attack, eps is missing", protocol={})
    refused("its version is missing", protocol={**good["protocol"], "version": None})
    result = make_result()
    result.n = 11
    with pytest.raises(ResultError, match="counts of images differ"):
        write_result(tmp_path / "new.json", result)
    assert not (tmp_path / "new.json").exists()


def test_without_a_protocol_there_is_no_result(tmp_path: Path) -> None:
    """Neither in memory nor from a file, nor by taking it away before writing."""
    with pytest.raises(ValueError, match="needs the protocol"):
        make_result(protocol={})
    result = make_result()
    result.protocol = {}
    with pytest.raises(ResultError, match="needs the protocol"):
        write_result(tmp_path / "x.json", result)
    assert not (tmp_path / "x.json").exists()


def test_unreadable_files_say_where_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(ResultError, match="tima evaluate"):
        load_results(tmp_path)
    (tmp_path / "results" / "a.json").write_text('{"cut')
    with pytest.raises(ResultError, match=r"a\.json is not valid JSON"):
        load_results(tmp_path)
    (tmp_path / "results" / "a.safetensors").write_bytes(b"no")
    for path in ("a.json", "b.json"):
        with pytest.raises(ResultError, match="evaluate again"):
            load_sidecar(tmp_path / "results" / path)


def test_paths_keep_different_measurements_apart() -> None:
    protocol = load_protocol("pgd")
    one, two = protocol.override(samples=5), protocol.override(samples=6)
    paths = {result_path("runs/x", "cifar10", p) for p in (protocol, one, two)}
    assert Path("runs/x/results/cifar10.pgd.json") in paths
    assert len(paths) == 3
    assert result_path("r", "../odd name.v2", protocol).parent == Path("r/results")
