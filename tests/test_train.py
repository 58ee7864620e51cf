"""The trainer on a tiny model: learns, resumes to the same bits, stops on NaN, refuses what it should."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip, make_image_set, png, write_image_folder
from spawned import leaves

from tima._files import sha256_file
from tima.config import TrainRecipe, train_recipe
from tima.errors import DataError, ModelError, RecipeError, TimaError, TrainingError
from tima.models import load_model
from tima.schedule import attack_step_size, batches, eps_at, lr_factor
from tima.split import split_data
from tima.train import train


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # type: ignore[no-untyped-def]
    """A tiny model folder and an ImageFolder with eight classes on disk."""
    root = tmp_path_factory.mktemp("world")
    build_tiny_clip(tokenizer).save_pretrained(root / "model")
    images = make_image_set(n=120, classes=8)
    write_image_folder(images, root / "data" / "train")
    return {"model": str(root / "model"), "data": str(root / "data")}


def recipe(world: dict[str, str], **changes: object) -> TrainRecipe:
    values: dict[str, object] = dict(
        method="tima",
        steps=8,
        batch_size=16,
        lr=1e-3,
        val_every=4,
        save_every=2,
        val_samples=20,
        val_attack_steps=2,
        held_out_classes=0.25,
    )
    return TrainRecipe(**{**values, **world, **changes})  # type: ignore[arg-type]


def weights(out: Path) -> dict[str, str]:
    return {
        "best": sha256_file(out / "model" / "model.safetensors"),
        "last": sha256_file(out / "checkpoint" / "trained.safetensors"),
    }


@pytest.mark.parametrize("method", ["tima", "tima-v1", "tecoa", "ft-clean"])
def test_a_run_leaves_a_model_a_summary_and_metrics(world: dict[str, str], tmp_path: Path, method: str) -> None:
    folder = train(recipe(world, method=method), tmp_path / "run", progress=False)
    tuned, original = load_model(folder), load_model(world["model"])
    moved = [
        n for (n, a), b in zip(tuned.backbone.named_parameters(), original.backbone.parameters(), strict=True) if not a.equal(b)
    ]
    assert any(n.startswith("vision_model") for n in moved)
    assert any(n.startswith("text_model") for n in moved) == method.startswith("tima")
    assert "logit_scale" not in moved
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["method"] == method and summary["best_step"] in (4, 8) and set(summary["val"]) == {"seen", "unseen"}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "val"] == [4, 8]


def test_training_lowers_the_loss_and_raises_robust_accuracy(world: dict[str, str], tmp_path: Path) -> None:
    train(
        recipe(world, method="tecoa", steps=60, lr=3e-3, precision="fp32", augment="none", held_out_classes=0),
        tmp_path / "run",
        progress=False,
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    seen = [line["seen"]["robust_accuracy"] for line in lines if line["kind"] == "val"]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0] and max(seen) > 0.4  # chance is 1/8


@pytest.mark.parametrize("stop_at", [1, 4, 7])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_resumes_to_the_same_bits(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int, precision: str
) -> None:
    """Stopped in the middle of a step, between checkpoints (save_every is 2), by an exception as a kill would."""
    settings = recipe(world, precision=precision)
    train(settings, tmp_path / "whole", progress=False)
    import tima.train as module

    real, calls = module.update, []

    def fails(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) > stop_at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "update", fails)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "cut", progress=False)
    monkeypatch.setattr(module, "update", real)
    train(settings, tmp_path / "cut", progress=False)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    kinds = [(line["kind"], line["step"]) for line in map(json.loads, (tmp_path / "cut" / "metrics.jsonl").open())]
    assert kinds == [("val", 4), ("train", 8), ("val", 8)]  # no line twice, none lost


def test_accumulation_gives_the_gradient_of_the_whole_batch(world: dict[str, str], tmp_path: Path) -> None:
    """Clean training, where parts share no randomness: two halves equal one whole to rounding."""
    changes = dict(method="ft-clean", precision="fp32", augment="none", steps=3)
    whole = load_model(train(recipe(world, **changes), tmp_path / "a", progress=False))
    halves = load_model(train(recipe(world, accumulate=2, **changes), tmp_path / "b", progress=False))
    for a, b in zip(whole.backbone.parameters(), halves.backbone.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=0)


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(world: dict[str, str], tmp_path: Path) -> None:
    train(recipe(world, steps=2), tmp_path / "run", progress=False)
    before = (tmp_path / "run" / "checkpoint" / "state.pt").stat().st_mtime_ns
    train(recipe(world, steps=2), tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "checkpoint" / "state.pt").stat().st_mtime_ns == before
    with pytest.raises(TimaError, match="other settings"):
        train(recipe(world, steps=3), tmp_path / "run", progress=False)


def test_nan_stops_with_the_step_the_term_and_the_checkpoint(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tima.methods.tecoa import TeCoA

    real, calls = TeCoA.losses, []

    def poisoned(self: TeCoA, step: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        terms = real(self, step)  # type: ignore[arg-type]
        return {name: t * float("nan") for name, t in terms.items()} if len(calls) == 4 else terms

    monkeypatch.setattr(TeCoA, "losses", poisoned)
    with pytest.raises(TrainingError, match=r"Step 3: \w+ = nan.*last good checkpoint is .*checkpoint") as caught:
        train(recipe(world, method="tecoa"), tmp_path / "run", progress=False)
    assert str(tmp_path) in str(caught.value)
    monkeypatch.setattr(TeCoA, "losses", real)
    train(recipe(world, method="tecoa"), tmp_path / "run", progress=False)  # nothing was lost: it goes on
    train(recipe(world, method="tecoa"), tmp_path / "clean", progress=False)
    assert weights(tmp_path / "run") == weights(tmp_path / "clean")


def test_weights_that_diverge_stop_with_the_step_and_not_in_the_attacks_own_words(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tima import train_step

    real = train_step.update

    def diverging(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        if args[4] == 2:  # the step
            with torch.no_grad():
                next(iter(args[7].values())).fill_(float("nan"))
        return found

    monkeypatch.setattr("tima.train.update", diverging)
    with pytest.raises(TrainingError, match=r"Step 3: inner attack = nan.*last good checkpoint is .*checkpoint.*smaller lr"):
        train(recipe(world, method="tecoa", val_every=100), tmp_path / "run", progress=False)
    with pytest.raises(TrainingError, match=r"Step 2: validation = nan.*smaller lr"):
        train(recipe(world, method="tecoa", val_every=3), tmp_path / "judged", progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method_config": {"w_mhee": 2}},
        {"method": "timma"},
        {"data": "nowhere"},
        {"model": "./nowhere"},
        {"templates": ["a photo"]},
        {"method": "trades", "attack": {"align": 0.2}},
    ],
)
def test_what_cannot_begin_does_not_claim_the_folder(world: dict[str, str], tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(TimaError):
        train(recipe(world, steps=1, **wrong), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists(), "the corrected command must be able to use it"


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_loaded(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tima.train.load_model", lambda _: pytest.fail("loaded a model"))
    (tmp_path / "file").write_text("")
    with pytest.raises(TimaError, match=r"file/run cannot be written: .*file is a file"):
        train(recipe(world), tmp_path / "file" / "run", progress=False)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(TimaError, match=r"run cannot be written: .* may not be written"):
        train(recipe(world), tmp_path / "run", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_tima_without_its_terms_trains_the_weights_of_tecoa(world: dict[str, str], tmp_path: Path) -> None:
    off = {name: 0 for name in ("w_takd", "w_takd_clean", "w_mhe", "w_iakd", "kappa", "m0")} | {"text_tower": "none"}
    train(recipe(world, steps=3, method="tima", method_config=off), tmp_path / "tima", progress=False)
    train(recipe(world, steps=3, method="tecoa"), tmp_path / "tecoa", progress=False)
    assert weights(tmp_path / "tima") == weights(tmp_path / "tecoa")


def test_a_damaged_checkpoint_and_one_of_another_method_are_refused(world: dict[str, str], tmp_path: Path) -> None:
    train(recipe(world, steps=2), tmp_path / "run", progress=False)
    shutil.copytree(tmp_path / "run" / "checkpoint", tmp_path / "other" / "checkpoint")
    with pytest.raises(ModelError, match="another model or method"):
        train(recipe(world, steps=2, method="tecoa"), tmp_path / "other", progress=False)
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "run" / "checkpoint" / "state.pt").write_bytes(b"junk")
    with pytest.raises(ModelError, match="damaged"):
        train(recipe(world, steps=2), tmp_path / "run", progress=False)


def test_a_corrupt_picture_is_left_out_and_listed(world: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(world["data"], tmp_path / "data")
    bad = tmp_path / "data" / "train" / "cat" / "broken.png"
    bad.write_bytes(b"\x89PNG not really")
    train(
        recipe(world, data=str(tmp_path / "data"), held_out_classes=0, val_images=0.05, steps=16),
        tmp_path / "run",
        progress=False,
    )
    listed = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [Path(item["where"]).name for item in listed] == ["broken.png"]


def test_a_full_disk_keeps_the_last_checkpoint(world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tima.checkpoint as module

    real, calls = module.save_file, []

    def full(*args: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(TimaError, match="No space left on device"):
        train(recipe(world), tmp_path / "run", progress=False)
    state = torch.load(tmp_path / "run" / "checkpoint" / "state.pt", weights_only=True)
    assert state["progress"]["step"] == 2


def test_seed_decides_everything(world: dict[str, str], tmp_path: Path) -> None:
    runs = {name: tmp_path / name for name in ("a", "b", "c")}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(recipe(world, steps=3, seed=seed), runs[name], progress=False)
    assert weights(runs["a"])["last"] == weights(runs["b"])["last"] != weights(runs["c"])["last"]


def test_split_keeps_classes_and_images_apart(world: dict[str, str]) -> None:
    split = split_data(recipe(world), 16)
    assert split.unseen is not None
    assert len(split.train.class_names) == 6 and len(split.unseen.class_names) == 2
    assert not set(split.train.class_names) & set(split.unseen.class_names)
    assert split.seen.class_names == split.train.class_names

    def where(images) -> set[str]:  # type: ignore[no-untyped-def]
        return {images.where(i) for i in range(len(images))}

    assert not where(split.train) & where(split.seen) and not where(split.train) & where(split.unseen)
    again = split_data(recipe(world, seed=5), 16)
    assert again.train.class_names == split.train.class_names  # every seed trains on the same images


def test_schedules() -> None:
    r = TrainRecipe(steps=100, warmup=0.1, eps_warmup=0.5, eps="4/255")  # type: ignore[arg-type]
    assert lr_factor(r, 0) == pytest.approx(0.1) and lr_factor(r, 9) == 1 and lr_factor(r, 10) == 1 and lr_factor(r, 99) < 0.001
    assert eps_at(r, 0) == pytest.approx(4 / 255 / 50) and eps_at(r, 49) == eps_at(r, 99) == pytest.approx(4 / 255)
    assert attack_step_size(r, 1 / 255) == 1 / 255  # method.md: step eps for 1/255
    assert attack_step_size(r, 4 / 255) == pytest.approx(4 / 255)  # 2.5 eps / 2 is more than eps
    assert attack_step_size(
        r.model_copy(update={"attack": r.attack.model_copy(update={"steps": 10})}), 4 / 255
    ) == pytest.approx(1 / 255)


def test_batches_cover_an_epoch_and_start_anywhere() -> None:
    plan = list(batches(10, 3, 0, 0, 9))
    assert all(len({i for batch in plan[e : e + 3] for i in batch}) == 9 for e in (0, 3, 6)) and plan[:3] != plan[3:6]
    assert list(batches(10, 3, 0, 5, 9)) == plan[5:]
    assert list(batches(4, 99, 0, 0, 1)) == list(batches(4, 4, 0, 0, 1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lrr=1"], "no such setting. Did you mean lr"),
        (["w_mhe=2"], "no such setting.*stand under method_config"),
        (["attack.stepz=1"], r"attack\.stepz: there is no such setting\. Did you mean steps or step_size\? Known: kind, steps"),
        (["lora.rnk=1"], r"lora\.rnk: there is no such setting\. Did you mean rank\? Known: rank, alpha"),
        (["lr=fast"], "valid number.*given: 'fast'"),
        (["lr"], "key=value"),
        (["eps=4"], "4/255"),
        (["attack.steps=0"], "greater than or equal to 1"),
    ],
)
def test_bad_overrides_are_explained(words: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        train_recipe(None, words)


def test_overrides_reach_nested_fields() -> None:
    r = train_recipe(None, ["attack.steps=3", "lr=1e-4", "eps=2/255", "method_config.w_mhe=0", "templates=['a {c}']"])
    assert (r.attack.steps, r.lr, r.method_config, r.templates) == (3, 1e-4, {"w_mhe": 0.0}, ["a {c}"])
    assert r.eps == 2 / 255


def test_a_stored_recipe_starts_the_same_run(world: dict[str, str], tmp_path: Path) -> None:
    train(recipe(world, steps=3), tmp_path / "a", progress=False)
    train(train_recipe(tmp_path / "a"), tmp_path / "b", progress=False)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_too_few_classes(world: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "one" / "cat").mkdir(parents=True)
    for i in range(4):
        (tmp_path / "one" / "cat" / f"{i}.png").write_bytes(png(np.zeros((16, 16, 3), np.uint8)))
    with pytest.raises(DataError, match="at least two"):
        train(recipe(world, data=str(tmp_path / "one")), tmp_path / "run", progress=False)


@leaves
def work(rank: int, world_size: int, port: int, settings: TrainRecipe, out: str) -> None:
    """One of the processes that `torchrun` would start; two runs, as a program that goes on after the first would have."""
    import os

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), ACCELERATE_USE_CPU="true")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    train(settings, Path(out) / "two", progress=False)
    uneven = {**settings.model_dump(), "method": "tecoa", "batch_size": 9, "accumulate": 4, "steps": 2}
    train(TrainRecipe(**uneven), Path(out) / "uneven", progress=False)
    train(TrainRecipe(**{**uneven, "model": f"{out}/dinov2"}), Path(out) / "unused", progress=False)


@pytest.mark.slow  # tests/test_distributed.py has the equality in the ordinary suite
def test_two_processes_learn_what_one_does(world: dict[str, str], tmp_path: Path) -> None:
    """Without an attack, whose random starts are each process's own: the mean of the halves' gradients is the batch's, also at
    the worst weights. Then a batch that is shared 5 to 4, in four parts: neither process waits for the other for ever. Nor for
    the gradient of DINOv2's mask token, which no embedding uses."""
    import transformers as hf
    from safetensors.torch import load_file
    from spawned import free_port

    from tima.models.hugging_face import CLIP_MEAN, CLIP_STD, HuggingFaceEncoder

    clip = load_model(world["model"])
    vision = hf.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    config = hf.VisionTextDualEncoderConfig(
        vision_config=vision.to_dict(), text_config=clip.backbone.config.text_config.to_dict(), projection_dim=24
    )
    dual = HuggingFaceEncoder(
        hf.VisionTextDualEncoderModel(config),
        clip.tokenizer,  # type: ignore[attr-defined]
        mean=CLIP_MEAN,
        std=CLIP_STD,
        name="dual",
    )
    dual.save_pretrained(tmp_path / "dinov2")
    settings = recipe(
        world, method="ft-clean", steps=3, augment="none", precision="fp32", optimizer="sgd", lr=0.1, awp={"gamma": 0.02}
    )
    torch.multiprocessing.spawn(work, (2, free_port(), settings, str(tmp_path)), nprocs=2)
    train(settings, tmp_path / "one", progress=False)
    one, two = (load_file(tmp_path / name / "checkpoint" / "trained.safetensors") for name in ("one", "two"))
    start = load_model(world["model"]).backbone
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-4, msg=name)
    assert max(float((value - start.get_parameter(name)).abs().max()) for name, value in one.items()) > 1e-3
    for name in ("uneven", "unused"):
        assert json.loads((tmp_path / name / "summary.json").read_text())["images_seen"] == 18
