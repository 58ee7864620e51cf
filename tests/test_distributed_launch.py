"""Launchers: a worker that is killed, the files of `examples/launch`, and `accelerate launch` on a CPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import build_tiny_clip, make_image_set, write_image_folder
from spawned import free_port
from training_together import difference, recipe, trained

from tima.config import dump
from tima.train import train

LAUNCH = Path(__file__).parents[1] / "examples" / "launch"

WORKER = """
import os, signal, sys, time
from pathlib import Path
import torch
import tima.train as module
from tima.config import train_recipe
out, mark, shard = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "shard"
real = module.update
def update(*arguments):
    if arguments[4] == 7 and os.environ["RANK"] == "1" and not mark.exists():
        mark.write_text("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
module.update = update
torch.set_num_threads(1)
module.train(train_recipe(out.parent / "recipe.yaml"), out, progress=False, shard=shard)
assert torch.distributed.get_world_size() == 2
"""


@pytest.fixture
def world(tokenizer: Any, tmp_path: Path) -> dict[str, str]:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    write_image_folder(make_image_set(n=120, classes=8), tmp_path / "data" / "train")
    return {"model": str(tmp_path / "model"), "data": str(tmp_path / "data")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["copies", "shard"])
def test_a_worker_that_is_killed_costs_the_steps_since_the_checkpoint_and_nothing_else(
    world: dict[str, str], tmp_path: Path, how: str
) -> None:
    """SIGKILL to one of two in step 7, checkpoints every 3: torchrun starts both again, and they end with the weights of a run
    that nothing happened to (and, to rounding, of one process)."""
    settings = recipe(world, method="tima", steps=12, val_every=6, save_every=3, ema=0.9)
    (tmp_path / "recipe.yaml").write_text(dump(settings))
    (tmp_path / "worker.py").write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    (tmp_path / "never").write_text("")
    for run, mark in (("whole", "never"), ("killed", "mark")):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1"]
        launcher += [
            f"--master_port={free_port()}",
            str(tmp_path / "worker.py"),
            str(tmp_path / run),
            str(tmp_path / mark),
            how,
        ]
        subprocess.run(launcher, check=True, env=environment, timeout=1200)  # a busy machine takes minutes to begin
    assert (tmp_path / "mark").read_text() == "killed", "nobody was killed, so nothing was tested"
    from safetensors.torch import load_file

    whole, killed = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "killed"))
    assert difference(whole, killed) == 0, "bit for bit: the same processes, the same order of data"
    train(settings, tmp_path / "one", progress=False)
    assert difference(load_file(tmp_path / "one" / "model" / "model.safetensors"), killed) < 1e-5
    if how == "copies":
        assert difference(trained(tmp_path / "whole"), trained(tmp_path / "killed")) == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_accelerate_launch_starts_two_on_a_cpu(world: dict[str, str], tmp_path: Path) -> None:
    """With the file of `examples/launch`; the plain flags start one and say nothing."""
    settings = recipe(world, steps=2, val_every=2, save_every=2)
    (tmp_path / "recipe.yaml").write_text(dump(settings))
    (tmp_path / "never").write_text("")
    (tmp_path / "worker.py").write_text(WORKER)  # it asserts that there are two
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "2cpu.yaml")]
    launcher += [f"--main_process_port={free_port()}", str(tmp_path / "worker.py")]
    launcher += [str(tmp_path / "run"), str(tmp_path / "never"), "copies"]
    environment = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"} | {"OMP_NUM_THREADS": "1"}
    subprocess.run(launcher, check=True, env=environment, timeout=1200)  # a busy machine takes minutes to begin
    train(settings, tmp_path / "one", progress=False)
    assert difference(trained(tmp_path / "one"), trained(tmp_path / "run")) < 1e-6


@pytest.mark.parametrize("file", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_our_configurations(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))  # refuses keys that it does not know
    machines, processes = {"1gpu": (1, 1), "2cpu": (1, 2), "4x8gpu": (4, 32)}.get(file.stem, (1, 8))
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert config.mixed_precision == "no", "the recipe decides"
    if "fsdp" in file.stem:
        assert (
            str(config.distributed_type).endswith("FSDP")
            and yaml.safe_load(file.read_text())["fsdp_config"]["fsdp_version"] == 2
        )


@pytest.mark.parametrize("file", sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")]), ids=lambda path: path.name)
def test_scripts_are_sound_and_name_settings_that_exist(file: Path) -> None:
    from torch.distributed.run import get_args_parser

    from tima.config import TrainRecipe, apply_overrides, validate

    subprocess.run(["bash", "-n", str(file)], check=True)
    text = file.read_text().replace("\\\n", " ")
    command = next(line for line in text.splitlines() if "tima train" in line and not line.startswith("#"))
    words = command.partition(" #")[0].replace('"$@"', "").split()
    overrides = [w for w in words[words.index("train") :] if "=" in w and not w.startswith(("-", '"'))]
    assert overrides
    validate(TrainRecipe, apply_overrides({"method": "tima"}, overrides), file.name)
    if "torchrun" in words:
        options = words[words.index("torchrun") + 1 : words.index("-m")]
        numbers = [o.replace('"$SLURM_NNODES"', "4").replace('"', "") for o in options]
        known = get_args_parser().parse_args([*numbers, "script"])
        assert known.nproc_per_node == "8" and known.max_restarts == 3
        assert known.nnodes == ("4" if "4x8" in file.name else "1:1")
