"""What trackers are told. A fake one takes a real one's place; docs/tracking.md says which real ones were run."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import build_tiny_clip, make_image_set, write_image_folder

from tima._trackers import check_trackers, tracker_config, tracker_options
from tima.config import TrainRecipe
from tima.errors import RecipeError
from tima.train import train


def recipe(folder: Path, **changes: Any) -> TrainRecipe:
    small: dict[str, Any] = dict(model=str(folder / "model"), data=str(folder / "data"), method="tima", steps=20, batch_size=8)
    small |= dict(val_every=10, val_samples=8, val_attack_steps=1, held_out_classes=0.25, workers=0, precision="fp32")
    return TrainRecipe(**{**small, **changes})


@pytest.fixture
def place(tokenizer: Any, tmp_path: Path) -> Path:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    write_image_folder(make_image_set(n=40, classes=4), tmp_path / "data" / "train")
    return tmp_path


def test_a_tracker_hears_the_recipe_and_every_number(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import tracking

    class Fake(tracking.GeneralTracker):
        name = "fake"
        requires_logging_directory = False
        main_process_only = True
        heard: ClassVar[list[tuple[int, dict[str, float]]]] = []
        config: ClassVar[dict[str, Any]] = {}
        ended: ClassVar[list[str]] = []

        def __init__(self, run_name: str, **options: Any) -> None:
            super().__init__()
            self.run_name = run_name

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            Fake.config.update(values)

        def log(self, values: dict[str, float], step: int | None = None, **options: Any) -> None:
            assert step is not None
            Fake.heard.append((step, values))

        def finish(self) -> None:
            Fake.ended.append(self.run_name)

    fake = Fake("tima")
    monkeypatch.setattr("tima.train.check_trackers", lambda names: None)
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda log_with, logging_dir: [fake])
    train(recipe(place, trackers=["fake"], seed=3), place / "run", progress=False)

    assert Fake.ended == ["tima"]
    assert Fake.config["seed"] == 3 and Fake.config["attack.steps"] == 2 and Fake.config["method"] == "tima"
    assert all(isinstance(value, str | int | float | bool) for value in Fake.config.values())
    lines = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [step for step, _ in Fake.heard] == [line["step"] for line in lines] == [10, 10, 20, 20]
    (_, trained), (_, validated) = Fake.heard[:2]
    terms = {f"train/terms/{name}": value for name, value in lines[0]["terms"].items()}
    assert terms and {name: value for name, value in trained.items() if "/terms/" in name} == terms
    rest = {"loss", "lr", "eps", "images_per_s", "robust_accuracy"}
    assert {name for name in trained if "/terms/" not in name} == {f"train/{name}" for name in rest}
    assert trained["train/loss"] == lines[0]["loss"]
    both = [f"val/{part}/{what}" for part in ("seen", "unseen") for what in ("clean_accuracy", "robust_accuracy")]
    assert {*both, "val/score"} <= set(validated) and not any(isinstance(value, bool) for value in validated.values())
    assert validated["val/unseen/robust_accuracy"] == lines[1]["unseen"]["robust_accuracy"]


def test_unknown_and_absent_trackers_are_refused_before_anything_is_written(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"Tracker 'wandbb' is unknown.*tensorboard"):
        train(recipe(place, trackers=["wandbb"]), place / "run", progress=False)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(RecipeError, match=r'pip install "tima\[track\]"'):
        train(recipe(place, trackers=["wandb"]), place / "run", progress=False)
    with pytest.raises(RecipeError, match=r"pip install aim$"):
        check_trackers(["aim"])
    assert not (place / "run").exists()


def test_runs_are_named_by_their_folder(tmp_path: Path) -> None:
    options = tracker_options(["wandb", "tensorboard"], tmp_path / "mine")
    assert options == {"wandb": {"name": "mine", "dir": str(tmp_path / "mine" / "tracking")}}
    assert (tmp_path / "mine" / "tracking").is_dir()
    assert tracker_options(["mlflow", "trackio"], Path("x"))["mlflow"] == {"run_name": "x"}


def test_a_recipe_is_told_flat() -> None:
    found = tracker_config(TrainRecipe(method_config={"w_takd": 0.3}, templates=["a {c}.", "the {c}."]))
    assert found["method_config.w_takd"] == 0.3 and found["templates"] == '["a {c}.", "the {c}."]'
    assert found["attack.keep_best"] is True and found["attack.step_size"] == "null"
