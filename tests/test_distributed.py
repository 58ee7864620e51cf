"""Several processes learn what one does, agree on what they saw, and stop together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_image_set, write_image_folder, write_world
from spawned import free_port, leaves
from training_together import difference, join, recipe, together, trained

from tima.distributed import Team
from tima.errors import RecipeError, TimaError, TrainingError
from tima.methods import METHODS
from tima.models import load_model
from tima.train import train
from tima.train_batch import cut

MODIFIERS: dict[str, dict[str, Any]] = {
    "lora": dict(lora={"rank": 2}),
    "prompt": dict(prompt={"size": 2, "init": 0.1}),
    "awp": dict(awp={"gamma": 0.01}),
    "n-fgsm": dict(attack={"kind": "n-fgsm"}),
    "align": dict(attack={"kind": "fgsm", "align": 0.2}),
    "restarts": dict(attack={"restarts": 2}),
    "averages": dict(ema=0.9, mix=0.7),
    "flip": dict(augment="flip"),
    "classes": dict(method="tima", max_classes=4),
    "parts": dict(method="mart", accumulate=2),
    "parts of a contrastive batch": dict(method="advflyp", accumulate=2),
    "own captions": dict(method="advflyp", method_config={"same_caption": "negatives"}),
}
# TRADES' attack climbs a KL that starts near 0, where a gradient is rounding and its sign a coin's: small steps, small coins
TRADES = dict(method="trades", attack={"step_size": 1e-6})
EVERYTHING = {name: dict(method=name) for name in METHODS if name != "zero-shot"} | {"trades": TRADES} | MODIFIERS
FEW = ("tima", "advflyp", "ft-adv", "align", "parts")


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return write_world(tokenizer, tmp_path_factory.mktemp("together"), 120, 8)


def compare(world: dict[str, str], out: Path, size: int, changes: dict[str, dict[str, Any]]) -> None:
    """One process, then `size` of them: the same weights, and every number of the log that is a count."""
    runs = {name: recipe(world, **change) for name, change in changes.items()}
    for name, settings in runs.items():
        if not (out / "one" / name / "summary.json").is_file():
            train(settings, out / "one" / name, progress=False)
    together(size, runs, out / str(size))
    start = load_model(world["model"]).backbone.state_dict()
    for name in runs:
        one, many = trained(out / "one" / name), trained(out / str(size) / name)
        assert difference(one, many) < 1e-6, name
        moved = [float((value - start[key]).abs().max()) for key, value in one.items() if key in start]
        assert max(moved, default=0.0) > 1e-4 or name == "lora"  # its weights are not in the model that it begins with
        logs = [[json.loads(line) for line in (run / name / "metrics.jsonl").open()] for run in (out / "one", out / str(size))]
        for first, other in zip(*logs, strict=True):
            for key in ("kind", "step", "robust_accuracy", "clean_accuracy", "seen", "unseen", "score"):
                assert first.get(key) == other.get(key), (name, key)
            assert first.get("loss", 0.0) == pytest.approx(other.get("loss", 0.0), abs=2e-5)


def test_two_processes_learn_what_one_does(world: dict[str, str], tmp_path: Path) -> None:
    compare(world, tmp_path, 2, {name: EVERYTHING[name] for name in FEW})


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_every_method_and_modifier(world: dict[str, str], tmp_path: Path, size: int) -> None:
    compare(world, tmp_path, size, EVERYTHING)


def test_parts_are_the_whole_where_images_are_not_compared(world: dict[str, str], tmp_path: Path) -> None:
    """Random numbers belong to the image: gradient accumulation changes nothing either."""
    for parts in (1, 3):
        train(recipe(world, method="mart", steps=5, accumulate=parts), tmp_path / str(parts), progress=False)
    assert difference(trained(tmp_path / "1"), trained(tmp_path / "3")) < 1e-6


# what goes wrong ----------------------------------------------------------------------------------------------------


@leaves
def break_one(rank: int, size: int, port: int, world: dict[str, str], out: str) -> None:
    """NaN in one process; an error in its loader; a disk that is full for the one that writes; too small a batch."""
    import tima.checkpoint as checkpoint
    from tima.data import ImageSet
    from tima.train_batch import TrainBatch

    join(rank, size, port)
    said: dict[str, list[str]] = {}

    def run(name: str, **changes: Any) -> None:
        try:
            train(recipe(world, **{"steps": 4, "save_every": 2, **changes}), Path(out) / name, progress=False)
        except TimaError as error:
            said[name] = [type(error).__name__, str(error)]

    pixels, collate, save = TrainBatch.pixels, ImageSet.collate, checkpoint.save_file
    if rank == 1:
        TrainBatch.pixels = lambda self, recipe, step: pixels(self, recipe, step) * (float("nan") if step == 3 else 1)  # type: ignore[method-assign]
    run("nan")
    TrainBatch.pixels = pixels  # type: ignore[method-assign]

    def fails(self: ImageSet, items: Any) -> Any:
        raise TrainingError("the shard is gone")

    if rank == 1:
        ImageSet.collate = fails  # type: ignore[method-assign]
    run("loader")
    ImageSet.collate = collate  # type: ignore[method-assign]

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    if rank == 0:
        checkpoint.save_file = full
    run("disk")
    checkpoint.save_file = save
    run("small", batch_size=1)
    run("fine")
    (Path(out) / f"{rank}.json").write_text(json.dumps(said))


def test_an_error_in_one_process_ends_all_with_its_reason(world: dict[str, str], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(break_one, (2, free_port(), world, str(tmp_path)), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert set(first) == set(second) == {"nan", "loader", "disk", "small"}
    assert first["nan"][1].startswith("Process 1 of 2 could not go on, so none does. It says:") and "nan" in first["nan"][1]
    assert first["nan"][1].endswith(second["nan"][1])
    assert "the shard is gone" in first["loader"][1] and second["loader"][1] == "the shard is gone"
    assert "No space left" in first["disk"][1] and "Process 0 of 2" in second["disk"][1]
    assert "cannot be shared by 2 processes" in first["small"][1] and first["small"] == second["small"]
    assert (tmp_path / "nan" / "checkpoint" / "state.pt").is_file(), "of step 2, before the error"


def test_pictures_that_cannot_be_read_leave_the_batch_that_one_process_sees(world: dict[str, str], tmp_path: Path) -> None:
    """A third of them, so that some process has none left of its slice of three and takes over others'."""
    write_image_folder(make_image_set(n=120, classes=8), tmp_path / "data" / "train")
    files = sorted((tmp_path / "data" / "train").rglob("*.png"))
    for number in np.random.default_rng(0).permutation(len(files))[:40]:
        files[number].write_bytes(b"no picture")
    settings = recipe({**world, "data": str(tmp_path / "data")}, batch_size=6, steps=10, method="mart")
    train(settings, tmp_path / "one", progress=False)
    together(2, {"two": settings}, tmp_path)
    assert difference(trained(tmp_path / "one"), trained(tmp_path / "two")) < 1e-6
    bad = [{json.loads(line)["where"] for line in (tmp_path / run / "quarantine.jsonl").open()} for run in ("one", "two")]
    assert bad[0] == bad[1] and len(bad[0]) > 10


def test_slices_are_even_neighbours_and_complete_in_every_part() -> None:
    for n, count, expected in ((10, 1, 1), (10, 3, 3), (7, 4, 2), (3, 5, 1)):
        parts = cut(range(n), count, Team(1, 3))
        assert len(parts) == expected and [i for part in parts for piece in part for i in piece] == list(range(n))
        for part in parts:
            assert len(part) == 3 and min(map(len, part)) >= 1 and max(map(len, part)) - min(map(len, part)) <= 1


def test_one_process_talks_to_nobody() -> None:
    team = Team()
    assert team.check(None, 3) == 3 and team.total([1.5]) == [1.5] and team.everyone("a") == ["a"] and team.agree(2) == 2
    with pytest.raises(RecipeError, match="mine"):
        team.check(RecipeError("mine"))
