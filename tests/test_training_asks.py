"""What a training run asks of memory, compiler, cache and original: no more than it needs, and what it does not get is said."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip, make_image_set
from torch import nn
from versions import spreads_weights

import tima.train_batch as train_batch
import tima.validate as validation
from tima._files import remove_parts
from tima.config import AttackSettings, LoraSettings, TrainRecipe
from tima.data import BadImage
from tima.distributed import Team
from tima.errors import RecipeError
from tima.methods import METHODS
from tima.models.checkpointing import checkpoint_layers
from tima.models.hugging_face import HuggingFaceEncoder
from tima.modifiers import build_modifiers
from tima.objective import Objective
from tima.teacher_cache import remember
from tima.train import train
from tima.train_batch import stream
from tima.train_log import TrainLog
from tima.train_speed import left_undone, quicken

CPU = torch.device("cpu")


@pytest.fixture
def settings(tokenizer: Any, tmp_path: Path) -> dict[str, Any]:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    values: dict[str, Any] = dict(model=str(tmp_path / "model"), method="tecoa", batch_size=8, accumulate=2, steps=4)
    return values | dict(val_every=2, save_every=4, val_samples=24, val_attack_steps=1, held_out_classes=0.25, augment="none")


def test_validation_asks_for_no_more_than_a_step(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches as large as a part of a step: what is accumulated because it does not fit must not be tried whole. And no
    gradient of a weight, whose graph would be as large again."""
    sizes: list[int] = []
    attack = validation.pgd

    def watched(classifier: Any, image_BCHW: torch.Tensor, *args: Any, **words: Any) -> torch.Tensor:
        sizes.append(len(image_BCHW))
        assert not any(p.requires_grad for p in classifier.model.parameters())
        return attack(classifier, image_BCHW, *args, **words)

    monkeypatch.setattr(validation, "pgd", watched)
    train(TrainRecipe(**settings), tmp_path / "run", progress=False, images=make_image_set(120, 8))
    assert max(sizes) == 4 and len(sizes) > 4


def test_what_is_compiled_stays_so_after_a_validation(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def eager(function: Any, **_: Any) -> Any:
        return lambda weights, x: (sizes.append(len(x)), function(weights, x))[1]

    monkeypatch.setattr(torch, "compile", eager)
    passes = []
    update = train_batch.TrainBatch.pixels
    monkeypatch.setattr(train_batch.TrainBatch, "pixels", lambda *a: (passes.append(len(sizes)), update(*a))[1])
    train(
        TrainRecipe(**settings, compile=True, precision="bf16"), tmp_path / "run", progress=False, images=make_image_set(120, 8)
    )
    assert set(sizes) == {4}, "one size, compiled once"
    assert len(passes) == 8 and len(sizes) - passes[-1] >= 4, "three passes of the attack and one of the update"


def test_a_long_run_begins_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the data is worked out as it is needed: as lists, that of billions of pictures fills the memory first."""
    drawn, real = [], train_batch.batches

    def counted(*args: Any) -> Any:
        for batch in real(*args):
            drawn.append(1)
            assert len(drawn) < 100
            yield batch

    monkeypatch.setattr(train_batch, "batches", counted)
    recipe = TrainRecipe(batch_size=6, steps=10**9)
    log: Any = None
    steps = [step for step, _ in itertools.islice(stream(make_image_set(48, 8), recipe, False, 10**8, Team(), log), 3)]
    assert steps == [10**8, 10**8 + 1, 10**8 + 2]


@pytest.mark.parametrize("name", METHODS)
def test_only_clean_pictures_are_kept_of_the_original(name: str, tokenizer: Any) -> None:
    """Attacked ones never come again; and which methods look at clean ones is known before a run."""
    method = METHODS[name]()
    if not method.trainable(build_tiny_clip(tokenizer)):
        return
    student, teacher = build_tiny_clip(tokenizer), build_tiny_clip(tokenizer, seed=1).requires_grad_(False)
    cache, pixels = remember(teacher, 1 << 20), torch.rand(5, 3, 16, 16)
    objective = Objective(student, teacher, method, ["cat", "dog", "tree"], ["a {c}."], AttackSettings(steps=1))
    captions = ["a cat", "a dog", "a tree", "a cat", "a boat"]
    with torch.enable_grad():
        objective(pixels, torch.tensor([0, 1, 2, 0, 1]), 0.01, 0.01, torch.Generator().manual_seed(0), captions)
    sees = method.needs_teacher and method.teacher_sees_clean
    assert (cache.misses, len(cache.kept)) == ((5, 5) if sees else (0, 0))


def test_what_a_run_does_not_get_is_said(tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(tiny_clip, None, TrainRecipe(compile=True, precision="bf16"), CPU)
    tima = METHODS["tima"]()
    assert left_undone(tiny_clip, tima, TrainRecipe(compile=True, cache_teacher=1, precision="bf16")) == []
    assert "no use with 'pmg-aft'" in left_undone(tiny_clip, METHODS["pmg-aft"](), TrainRecipe(cache_teacher=1))[0]
    assert "no use with 'tecoa'" in left_undone(tiny_clip, METHODS["tecoa"](), TrainRecipe(cache_teacher=1))[0]
    recipe = TrainRecipe(compile=True, lora=LoraSettings(rank=2), precision="bf16")
    build_modifiers(recipe).attach(tiny_clip, tima.trainable(tiny_clip))
    (line,) = left_undone(tiny_clip, tima, recipe)
    assert "autocast" in line and "Nothing is compiled." in line
    assert left_undone(tiny_clip, tima, TrainRecipe(precision="fp32")) == []


def test_gradients_that_are_differentiated_again_are_not_compiled(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tima.train_speed.has_bf16", lambda device: True)
    recipe = TrainRecipe(compile=True, attack=AttackSettings(kind="fgsm", align=0.2), precision="bf16")
    (line,) = quicken(tiny_clip, None, recipe, CPU)
    assert "attack.align" in line and not tiny_clip._compiled


def test_a_gpu_keeps_no_embeddings_by_pixels(tiny_clip: HuggingFaceEncoder) -> None:
    recipe = TrainRecipe(cache_teacher=1, augment="none", precision="fp32")
    assert "for CPUs" in quicken(tiny_clip, tiny_clip, recipe, torch.device("cuda"))[0]
    assert "encode_image" not in tiny_clip.__dict__


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block(), Block())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x) * 2


def test_layers_in_a_sequence_are_checkpointed_too() -> None:
    """timm's towers, ResNets: the innermost lists count, once."""
    tower, x = nn.Sequential(Stage(), Stage()), torch.randn(5, 6)
    found = []
    for on in (False, True):
        assert checkpoint_layers(tower, on) == 6
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, k=kept: (k.append(t.numel()), t)[1], lambda t: t):  # type: ignore[misc]
            out = tower(x)
        found.append((sum(kept), torch.autograd.grad(out.sum(), list(tower.parameters()))))
    assert found[1][0] < 0.5 * found[0][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    assert checkpoint_layers(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), True) == 0, "no layers, which is said"


def test_an_older_torch_is_told_of_each_weight(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = torch.autograd.graph.increment_version, []

    def of_one_tensor(tensor: torch.Tensor) -> None:
        assert isinstance(tensor, torch.Tensor), "torch 2.4 knows no lists here"
        seen.append(1)
        real(tensor)

    monkeypatch.setattr(torch.autograd.graph, "increment_version", of_one_tensor)
    train(TrainRecipe(**{**settings, "steps": 1}), tmp_path / "run", progress=False, images=make_image_set(120, 8))
    assert seen


@spreads_weights
def test_spread_weights_need_a_torch_that_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.fsdp import FSDPModule

    from tima.distributed_sharding import check

    check(TrainRecipe())
    monkeypatch.delattr(FSDPModule, "set_force_sum_reduction_for_comms")
    with pytest.raises(RecipeError, match="newer torch"):
        check(TrainRecipe())


def test_the_first_line_says_what_auto_became(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for fast, name in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("tima._precision.has_bf16", lambda device, fast=fast: fast)
        train(TrainRecipe(**{**settings, "steps": 1}), tmp_path / name, progress=True, images=make_image_set(120, 8))
        assert f"weights train in {name} on cpu" in " ".join(capsys.readouterr().err.split())


def test_a_picture_left_out_before_a_resume_is_counted_once(tmp_path: Path) -> None:
    first, second = BadImage("a.png", "broken"), BadImage("b.png", "cut off")
    settings: Any = dict(show=False, write=True, tracker=lambda *_, **__: None)
    with TrainLog(tmp_path / "run", TrainRecipe(), 0, **settings) as log:
        (tmp_path / "run").mkdir()
        log.bad([first])
    with (tmp_path / "run" / "quarantine.jsonl").open("a") as file:
        file.write('{"where": "b.p')  # killed here
    with TrainLog(tmp_path / "run", TrainRecipe(), 3, **settings) as log:
        log.bad([second, first])
        assert len(log.bad_seen) == 2, "what the summary counts"
    lines = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [line["where"] for line in lines] == ["a.png", "b.png"]


def test_what_a_killed_process_left_half_written_goes(settings: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    for name in (".checkpoint.abc.part", ".model.abc.part"):
        (out / name).mkdir(parents=True)
        (out / name / "weights").write_bytes(b"half")
    (out / ".checkpoint.other").write_text("not ours")
    train(TrainRecipe(**{**settings, "steps": 1}), out, progress=False, images=make_image_set(120, 8))
    assert {p.name for p in out.iterdir() if p.name.startswith(".")} == {".checkpoint.other"}
    remove_parts(tmp_path / "nothing" / "here")


def test_processes_that_a_launcher_started_on_a_cpu_never_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from tima.distributed import launched, mean_cpus

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("RANK", "WORLD_SIZE", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    mean_cpus()
    assert launched() == 1 and "ACCELERATE_USE_CPU" not in os.environ
    monkeypatch.setenv("WORLD_SIZE", "2")  # some schedulers set it for a single process
    assert launched() == 1
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "")  # so that what the call sets is taken back
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    mean_cpus()
    assert launched() == 2 and os.environ["ACCELERATE_USE_CPU"] == "true"
