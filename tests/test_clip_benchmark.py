"""`clip_benchmark build` reads a folder of our results: what it reads is there, and the real tool makes its table of them."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_report import write_run

# The build command uses none of these, but the tool's command line imports them all; they may be heavy or broken here.
BUILD = """
import sys, types
from unittest.mock import MagicMock
for name in sys.argv[1].split(","):
    sys.modules[name] = MagicMock(name=name)
from clip_benchmark.cli import main_build
main_build(types.SimpleNamespace(files=[sys.argv[2]], output=sys.argv[3]))
"""
UNUSED = ["torch", "clip_benchmark.datasets.builder", "clip_benchmark.metrics", "clip_benchmark.model_collection"]
UNUSED.append("clip_benchmark.models")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scores = {"cifar10": [0.5, 0.4, 0.3, 0.2, 0.1], "groceries": [0.6, 0.5, 0.4, 0.3, 0.2]}
    return write_run(tmp_path / "tima", "tima", scores) / "results"


def test_the_fields_that_the_tool_reads_are_there(folder: Path) -> None:
    """`build` takes every .json of a folder, merges `metrics` into the record, and joins `model` and `pretrained`."""
    files = sorted(folder.glob("*.json"))
    assert len(files) == 2
    for path in files:
        record = json.loads(path.read_text())
        assert set(record["metrics"]) == {"acc1", "acc5", "mean_per_class_recall"}
        assert not set(record["metrics"]) & set(record), "a metric would be overwritten by a field of the record"
        assert record["model"] + " " + record["pretrained"] == "nano tima"
        assert record["task"] == "zeroshot_classification" and record["language"] == "en"
        assert record["metrics"]["acc1"] == record["clean"]["accuracy"]


def test_the_real_tool_builds_its_table(folder: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("clip_benchmark") is None:
        pytest.skip("clip-benchmark is not installed: pip install --no-deps clip-benchmark")
    out = tmp_path / "benchmark.csv"
    command = [sys.executable, "-c", BUILD, ",".join(UNUSED), str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with out.open() as file:
        rows = {row["dataset"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"cifar10", "groceries"}
    assert rows["cifar10"]["acc1"] == "0.5" and rows["groceries"]["acc1"] == "0.6"
    assert rows["cifar10"]["model_fullname"] == "nano tima" and rows["cifar10"]["task"] == "zeroshot_classification"
