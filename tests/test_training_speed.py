"""What makes training faster changes nothing but the speed: gradients, texts, cache, batches, fallbacks."""

from pathlib import Path

import pytest
import torch
from conftest import build_tiny_clip, make_image_set

from tima.config import TrainRecipe
from tima.models import encode_classes, lean_text
from tima.models.checkpointing import checkpoint_layers
from tima.models.fast_compile import CompiledTower
from tima.models.hugging_face import HuggingFaceEncoder
from tima.teacher_cache import PIECE, TeacherCache, remember
from tima.train import build_optimizer, train
from tima.train_batch import TrainBatch
from tima.train_prefetch import prefetched
from tima.train_speed import quicken

NAMES = ["cat", "small tree", "sailing boat", "dog", "red apple and a guitar"]
CPU = torch.device("cpu")


def text_and_gradients(model: HuggingFaceEncoder, names: list[str], templates: list[str]) -> list[torch.Tensor]:
    params = [p.requires_grad_() for p in model.text_parameters().values()]
    text_CD = encode_classes(model, names, templates)
    direction = torch.randn(text_CD.shape, generator=torch.Generator().manual_seed(1))
    return [text_CD, *torch.autograd.grad((text_CD * direction).sum(), params, allow_unused=True)]


@pytest.mark.parametrize("names, templates", [(NAMES, ["a photo of a {c}."]), (NAMES[:1], ["{c}"]), (NAMES, ["{c}", "a {c}"])])
@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_texts_and_their_gradients_are_the_librarys(tokenizer, hidden_act: str, names, templates) -> None:  # type: ignore[no-untyped-def]
    model = build_tiny_clip(tokenizer, hidden_act=hidden_act)
    assert lean_text.supports(model)
    expected = text_and_gradients(model, names, templates)
    model.use_lean(torch.float32)
    found = text_and_gradients(model, names, templates)
    largest = max(float(g.abs().max()) for g in expected[1:])
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    for a, b in zip(expected[1:], found[1:], strict=True):
        assert float((a - b).abs().max()) <= 1e-5 * largest


def test_only_tokens_that_all_prompts_begin_with_are_shared() -> None:
    def shared(rows: list[list[int]]) -> int:
        ids = torch.tensor(rows)
        return lean_text.shared_tokens(ids, lean_text.ends(ids, 9))

    assert shared([[1, 5, 6, 9], [1, 5, 7, 9]]) == 2
    assert shared([[1, 5, 9, 9], [1, 5, 9, 9]]) == 2, "the end token is the text's own"
    assert shared([[1, 5, 6, 9]]) == 0 and shared([[1, 9], [2, 9]]) == 0


def test_texts_that_nothing_is_learned_from_stay_the_librarys(tiny_clip: HuggingFaceEncoder) -> None:
    plain = tiny_clip.encode_text(NAMES)
    tiny_clip.use_lean(torch.bfloat16)
    tiny_clip.requires_grad_(False)
    assert torch.equal(tiny_clip.encode_text(NAMES), plain)


def test_under_a_projection_that_trains_the_tower_runs_once(tiny_clip: HuggingFaceEncoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    tiny_clip.requires_grad_(False)
    weight = tiny_clip.backbone.text_projection.weight.requires_grad_(True)
    expected = torch.autograd.grad(tiny_clip.encode_text(NAMES).sum(), weight)[0]
    tiny_clip.use_lean(torch.float32)
    runs, states = [], lean_text.text_states
    monkeypatch.setattr(lean_text, "text_states", lambda w, ids: (runs.append(len(ids)), states(w, ids))[1])
    for _ in range(2):
        torch.testing.assert_close(
            torch.autograd.grad(tiny_clip.encode_text(NAMES).sum(), weight)[0], expected, atol=1e-4, rtol=1e-4
        )
    assert runs == [len(NAMES)]
    with torch.no_grad():
        tiny_clip.backbone.text_model.final_layer_norm.weight.mul_(2)
    tiny_clip.encode_text(NAMES)
    assert len(runs) == 2, "a tower that changed is run again"


@pytest.mark.parametrize("lean", [None, torch.float32])
def test_checkpointing_changes_no_gradient(tiny_clip: HuggingFaceEncoder, lean) -> None:  # type: ignore[no-untyped-def]
    pixels = torch.rand(3, 3, 16, 16)
    params = [p for p in tiny_clip.requires_grad_(True).parameters() if p.ndim > 0]
    tiny_clip.use_lean(lean)

    def gradients() -> tuple[torch.Tensor, ...]:
        logits = tiny_clip.encode_image(pixels) @ tiny_clip.encode_text(NAMES).T
        return torch.autograd.grad((logits**2).sum(), params)

    plain, saved = gradients(), []
    for on in (False, True):
        tiny_clip.use_checkpointing(on)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: (s.append(t.numel()), t)[1], lambda t: t):  # type: ignore[misc]
            tiny_clip.encode_image(pixels)
        saved.append(sum(sizes))
    found = gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
    assert saved[1] < 0.6 * saved[0], "less is kept for the backward pass"
    tiny_clip.use_checkpointing(False)
    assert not any("forward" in m.__dict__ for m in tiny_clip.backbone.modules())
    assert checkpoint_layers(tiny_clip.backbone, False) == 4


def test_the_cache_gives_the_bits_of_the_teacher(tiny_clip: HuggingFaceEncoder) -> None:
    tiny_clip.requires_grad_(False).use_lean(torch.bfloat16)
    pixels = torch.rand(PIECE + 3, 3, 16, 16)
    whole = [tiny_clip.encode_image(torch.stack([x] * PIECE), normalize=False)[0] for x in pixels]
    cache = remember(tiny_clip, 1 << 20)
    assert isinstance(cache, TeacherCache)
    for order in (torch.arange(PIECE + 3), torch.randperm(PIECE + 3)[:5], torch.tensor([2, 2, 7])):
        found = tiny_clip.encode_image(pixels[order], normalize=False)
        assert torch.equal(found, torch.stack([whole[i] for i in order.tolist()]))
    assert (cache.hits, cache.misses) == (8, PIECE + 3)
    assert not torch.equal(tiny_clip.encode_image(pixels[:1].flip(-1), normalize=False)[0], whole[0])
    cache.limit = 3 * 24 * 4  # of three embeddings
    tiny_clip.encode_image(pixels, normalize=False)
    assert len(cache.kept) == 3
    with torch.enable_grad():
        x = pixels[:2].requires_grad_()
        assert tiny_clip.encode_image(x).requires_grad


def test_augmentation_is_the_same_wherever_the_images_are(toy_set) -> None:  # type: ignore[no-untyped-def]
    batch = TrainBatch(torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), torch.arange(6))
    for kind in ("none", "flip", "crop"):
        recipe = TrainRecipe(augment=kind)
        expected = batch.pixels(recipe, 3)
        ((step, here),) = prefetched([(3, batch)], CPU)
        assert step == 3 and torch.equal(here.pixels(recipe, 3), expected)
        meta = next(iter(prefetched([(3, batch)], torch.device("meta"))))[1]  # another device: nothing falls back to the CPU
        assert meta.pixels(recipe, 3).device.type == "meta"


def test_batches_ahead_keep_their_order() -> None:
    batches = [(i, TrainBatch(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.tensor([i]))) for i in range(4)]
    assert [step for step, _ in prefetched(iter(batches), torch.device("meta"))] == [0, 1, 2, 3]


def test_training_goes_on_without_a_compiler(tiny_clip: HuggingFaceEncoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def broken(function, **_):  # type: ignore[no-untyped-def]
        def run(weights, x):  # type: ignore[no-untyped-def]
            raise RuntimeError("no compiler found\nlong story")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr("tima.train_speed.has_bf16", lambda device: True)
    notes = quicken(tiny_clip, None, TrainRecipe(compile=True, precision="bf16"), CPU)
    pixels = torch.rand(2, 3, 16, 16)
    compiled = tiny_clip.encode_image(pixels)
    assert notes == ["not compiled: no compiler found"]
    tiny_clip.use_compile(None)
    assert torch.equal(compiled, tiny_clip.encode_image(pixels))
    assert quicken(tiny_clip, None, TrainRecipe(compile=True, precision="fp32"), CPU) == [
        "not compiled: compile belongs to precision=bf16, this run has fp32"
    ]


def test_in_training_only_whole_batches_are_compiled(tiny_clip: HuggingFaceEncoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    sizes: list[int] = []

    def eager(function, **_):  # type: ignore[no-untyped-def]
        return lambda weights, x: (sizes.append(len(x)), function(weights, x))[1]

    monkeypatch.setattr(torch, "compile", eager)
    tiny_clip.use_lean(torch.float32)
    tiny_clip.use_compile([])
    for n in (4, 3, 4):
        tiny_clip.encode_image(torch.rand(n, 3, 16, 16))
    assert sizes == [4, 4] and isinstance(tiny_clip._compiled[True], CompiledTower)


def test_a_run_with_everything_on_resumes_to_the_same_weights(tmp_path: Path) -> None:
    settings = dict(
        model="nano", steps=2, batch_size=6, augment="flip", cache_teacher=8, gradient_checkpointing=True, val_samples=4
    )
    recipe = TrainRecipe(**settings, val_every=2, save_every=1, held_out_classes=0.25, val_images=0.25)  # type: ignore[arg-type]
    images = make_image_set(24, 4, 48)
    whole = train(recipe, tmp_path / "whole", progress=False, images=images)
    stopped = tmp_path / "stopped"

    class Stop(Exception):
        pass

    import tima.train as module

    save, saved = module.save_checkpoint, []

    def once(*args, **words):  # type: ignore[no-untyped-def]
        save(*args, **words)
        saved.append(1)
        if len(saved) == 1:
            raise Stop

    module.save_checkpoint = once  # type: ignore[assignment]
    try:
        with pytest.raises(Stop):
            train(recipe, stopped, progress=False, images=images)
        train(recipe, stopped, progress=False, images=images)
    finally:
        module.save_checkpoint = save
    a, b = ((folder / "model.safetensors").read_bytes() for folder in (whole, stopped / "model"))
    assert a == b


def test_the_fused_optimiser_is_used_and_does_the_same(tiny_clip: HuggingFaceEncoder) -> None:
    from tima.modifiers import Modifiers

    params = tiny_clip.image_parameters()
    optimizer = build_optimizer(TrainRecipe(lr=0.1), tiny_clip, params, Modifiers([]))
    assert optimizer.defaults["fused"] is True
    p = params["visual_projection.weight"].requires_grad_()
    start = p.detach().clone()
    p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), start * (1 - 0.1 * 1e-4) - 0.1, atol=1e-5, rtol=0)  # Adam's first step is lr * sign


def test_the_gpu_benchmark_refuses_without_one_and_runs_on_a_cpu_when_asked(tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    import json

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for words in ([], ["--device", "cpu"]):
        with pytest.raises(SystemExit) as stopped:
            gpu.main(words)
        assert stopped.value.code == 2 and "--tiny" in capsys.readouterr().err
    gpu.main(["--device", "cpu", "--tiny", "--results", str(tmp_path / "gpu.json")])
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["summary"]["figures"] is False and len(record["seconds"]["the field's loop"]) == 2
    assert set(record["memory"]) == {"random:tiny, checkpointing off", "random:tiny, checkpointing on"}
