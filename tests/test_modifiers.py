"""Modifiers: right by hand, combine with every method, leave ordinary models behind, exact after a stop."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import build_tiny_clip, write_world
from test_open_clip import CONFIGS, needs_open_clip, write_model
from torch import Tensor, nn

from tima._files import sha256_file
from tima.config import AttackSettings, AwpSettings, LoraSettings, TrainRecipe, train_recipe
from tima.errors import ModelError, RecipeError, TrainingError
from tima.methods import METHODS, find_method
from tima.models import DualEncoder, ZeroShotClassifier, load_model
from tima.models.fast import attack_model
from tima.models.visual_prompt import PaddingPrompt
from tima.modifiers import Awp, Lora, build_modifiers
from tima.modifiers.grad_align import grad_align
from tima.modifiers.inner_attack import inner_attack, n_fgsm
from tima.objective import Objective
from tima.train import train

MODIFIERS: dict[str, dict[str, Any]] = {
    "none": {},
    "lora": {"lora": {"rank": 2, "targets": ["q_proj"]}},
    "prompt": {"prompt": {"size": 3}},
    "prompt alone": {"prompt": {"size": 3, "alone": True}},
    "awp": {"awp": {"gamma": 0.01}},
    "fgsm": {"attack": {"kind": "fgsm"}},
    "n-fgsm": {"attack": {"kind": "n-fgsm"}},
    "align": {"attack": {"steps": 1, "align": 0.2}},
    "all": {
        "lora": {"targets": ["fc1"]},
        "prompt": {"size": 2},
        "awp": {},
        "attack": {"kind": "n-fgsm", "align": 0.1},
        "accumulate": 2,
    },
}
NAMES = ["cat", "dog", "tree", "boat"]


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # type: ignore[no-untyped-def]
    return write_world(tokenizer, tmp_path_factory.mktemp("modifiers"), 40, 4)


def recipe(**changes: Any) -> TrainRecipe:
    values: dict[str, Any] = dict(method="tecoa", steps=4, batch_size=8, lr=1e-3, val_every=4, save_every=2, val_samples=8)
    return TrainRecipe(**{**values, "held_out_classes": 0.25, "precision": "fp32", "val_attack_steps": 2, **changes})


class Bench:
    """One optimiser step as the trainer makes it, on a tiny model, without files."""

    def __init__(self, tokenizer: Any, settings: TrainRecipe) -> None:
        from tima.train import build_method, build_optimizer

        self.recipe, self.modifiers = settings, build_modifiers(settings)
        self.method = build_method(settings)
        self.student = build_tiny_clip(tokenizer).requires_grad_(False)
        teacher = build_tiny_clip(tokenizer).requires_grad_(False) if self.method.needs_teacher else None
        self.params = self.modifiers.attach(self.student, self.method.trainable(self.student))
        for p in self.params.values():
            p.requires_grad_(True)
        prompts = ["a photo of a {c}."]
        self.objective = Objective(self.student, teacher, self.method, NAMES, prompts, settings.attack)
        self.params |= {f"method.{name}": p for name, p in self.objective.own.items()}
        if self.params:
            self.optimizer = build_optimizer(settings, self.student, self.params, self.modifiers)

    def step(self, number: int = 0) -> Any:
        from tima.train import update
        from tima.train_batch import TrainBatch

        image = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
        label = torch.tensor([0, 1, 2, 3, 0, 1])
        batch = TrainBatch(image, label, [f"a {NAMES[y]}" for y in label.tolist()])
        cpu = SimpleNamespace(process_index=0, device=torch.device("cpu"), backward=lambda loss: loss.backward())
        rest = (self.params, self.modifiers, SimpleNamespace(best_step=0), Path("nowhere"))
        return update(self.objective, self.optimizer, cpu, self.recipe, number, batch, 4 / 255, *rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("modifier", [name for name in MODIFIERS if name != "none"])
def test_every_method_takes_every_modifier(tokenizer, modifier: str) -> None:  # type: ignore[no-untyped-def]
    """One step each: what trains moves, everything else stays bit for bit, also through `outgoing`."""
    plain = set(dict(build_tiny_clip(tokenizer).backbone.named_parameters()))
    for name in METHODS:
        settings = recipe(method=name, **MODIFIERS[modifier])
        if name == "zero-shot":
            if build_modifiers(settings).members:
                with pytest.raises(RecipeError, match="trains nothing"):
                    Bench(tokenizer, settings)
            continue
        if name in ("ft-clean", "trades") and settings.attack.align > 0:
            with pytest.raises(RecipeError, match="has none"):
                Bench(tokenizer, settings)
            continue
        bench = Bench(tokenizer, settings)
        before = {key: p.detach().clone() for key, p in bench.student.named_parameters()}
        outcome = bench.step()
        assert ("align" in outcome.terms) == (settings.attack.align > 0)
        assert outcome.adversarial == (name != "ft-clean")
        trained = {id(p) for p in bench.params.values()}
        moved = {key for key, p in bench.student.named_parameters() if not torch.equal(p, before[key])}
        assert moved and all(id(bench.student.get_parameter(key)) in trained for key in moved), (name, modifier)
        after = {key: p.detach().clone() for key, p in bench.student.named_parameters()}
        with bench.modifiers.outgoing():
            assert set(dict(bench.student.backbone.named_parameters())) == plain, "no adapter is left in the names"
        for key, p in bench.student.named_parameters():
            assert torch.equal(p, after[key]), "bit for bit"


@pytest.mark.parametrize("modifier", ["lora", "prompt", "awp", "n-fgsm", "align", "all"])
def test_a_stopped_run_resumes_to_the_same_bits(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modifier: str
) -> None:
    import tima.train as module

    settings = recipe(**world, method="tima", ema=0.9, mix=0.8, **MODIFIERS[modifier])
    train(settings, tmp_path / "whole", progress=False)
    real, calls = module.update, []

    def fails(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "update", fails)
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "cut", progress=False)
    monkeypatch.setattr(module, "update", real)
    train(settings, tmp_path / "cut", progress=False)
    files = ["model/model.safetensors", "checkpoint/trained.safetensors", "checkpoint/averages.safetensors"]
    files += ["model/visual_prompt.safetensors"] if settings.prompt else []
    for file in files:
        assert sha256_file(tmp_path / "whole" / file) == sha256_file(tmp_path / "cut" / file), file


@pytest.mark.parametrize(
    ("modifier", "lr"), [("lora", 0.02), ("prompt alone", 0.3), ("awp", 3e-3), ("n-fgsm", 3e-3), ("align", 3e-3)]
)
def test_a_batch_is_learned(tokenizer, modifier: str, lr: float) -> None:  # type: ignore[no-untyped-def]
    bench = Bench(tokenizer, recipe(lr=lr, augment="none", **MODIFIERS[modifier]))
    losses = [float(bench.step(number).terms["ce"]) for number in range(12)]
    assert losses[-1] < 0.95 * losses[0], losses


# low-rank adapters --------------------------------------------------------------------------------------------------


def attached(student: DualEncoder, method: str = "tecoa", mix: float = 1.0, **settings: Any) -> tuple[Lora, dict[str, Any]]:
    lora = Lora(LoraSettings(**settings), mix, seed=0)
    found = find_method(method)()
    return lora, lora.attach(student.requires_grad_(False), found.trainable(student))


def test_merged_weights_are_the_sum_of_the_original_and_the_product(tokenizer) -> None:  # type: ignore[no-untyped-def]
    student, original = build_tiny_clip(tokenizer), build_tiny_clip(tokenizer)
    lora, params = attached(student, rank=3, alpha=6, mix=0.5)
    image = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            student.encode_image(image), original.encode_image(image), msg="the first step sees the original"
        )
        for p in params.values():
            p.normal_(0, 0.3)
        whole = student.encode_image(image)
    name = "vision_model.encoder.layers.1.mlp.fc1"
    a, b = (params[f"{name}.lora_{m}.default.weight"].detach().double().numpy() for m in "AB")
    w = original.backbone.get_parameter(f"{name}.weight").detach().double().numpy()
    with lora.outgoing():
        merged = student.backbone.get_parameter(f"{name}.weight").detach().double().numpy()
    np.testing.assert_allclose(merged, w + 0.5 * (6 / 3) * b @ a, atol=1e-5)
    assert np.linalg.matrix_rank(merged - w, tol=1e-4) == 3
    lora.mix = 1.0
    with lora.outgoing(), torch.no_grad():
        torch.testing.assert_close(student.encode_image(image), whole, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(student.encode_image(image), whole), "as before, bit for bit"


def test_only_adapters_of_what_the_method_trains_train(tokenizer) -> None:  # type: ignore[no-untyped-def]
    _, image_only = attached(build_tiny_clip(tokenizer), rank=2)
    assert image_only and all("lora_" in n and n.startswith(("vision_model.", "visual_")) for n in image_only)
    _, both = attached(build_tiny_clip(tokenizer), "tima", rank=2)
    assert {n.split(".")[0] for n in both} == {"vision_model", "visual_projection", "text_model", "text_projection"}
    assert all("lora_" in n for n in both)
    _, mixed = attached(build_tiny_clip(tokenizer), "tima", rank=2, tower="image", targets=["q_proj", "v_proj"])
    adapters = {n for n in mixed if "lora_" in n}
    assert len(adapters) == 2 * 2 * 2 and all(re.search(r"vision_model.*[qv]_proj", n) for n in adapters)
    full = build_tiny_clip(tokenizer).text_parameters("full")
    assert set(mixed) - adapters == set(full), "the other tower as the method says"


@pytest.mark.parametrize("settings", [{"tower": "text"}, {"targets": ["qkv"]}])
def test_lora_without_a_layer_says_what_there_is(tokenizer, settings: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RecipeError, match="finds no linear layer"):
        attached(build_tiny_clip(tokenizer), **settings)


def test_the_output_layer_of_torch_attention_gets_no_idle_adapter() -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.mlp = nn.MultiheadAttention(4, 2), nn.Linear(4, 4)

    tower = Tower()
    trained = {name for name, _ in tower.named_parameters()}
    assert Lora(LoraSettings(), 1.0, 0)._layers(tower, trained) == ["mlp"]


def test_adapters_stay_in_their_tower_where_names_end_alike() -> None:
    """open_clip's image layers are called as its text layers are, with `visual.` before."""
    pytest.importorskip("peft")

    def blocks() -> nn.Module:
        return nn.ModuleDict({"transformer": nn.ModuleDict({"c_fc": nn.Linear(4, 4)})})

    backbone = blocks()
    backbone["visual"] = blocks()  # type: ignore[operator]
    text, image = ({n: p for n, p in backbone.named_parameters() if n.startswith(w)} for w in ("transformer.", "visual."))
    student = SimpleNamespace(
        backbone=backbone, image_parameters=lambda: image, text_parameters=lambda which: text, use_lean=lambda dtype: None
    )
    lora = Lora(LoraSettings(tower="text"), 1.0, seed=0)
    found = lora.attach(student, image | text)  # type: ignore[arg-type]
    assert {n for n in found if "lora_" in n} == {f"transformer.c_fc.lora_{m}.default.weight" for m in "AB"}
    with lora.outgoing():
        assert not any("lora_" in n for n, _ in backbone.named_parameters())


def test_a_missing_peft_names_the_extra(tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(RecipeError, match=r"tima\[lora\]"):
        attached(build_tiny_clip(tokenizer))


def test_a_lora_run_leaves_plain_weights_and_what_was_validated(world: dict[str, str], tmp_path: Path) -> None:
    """bf16 on CPU, where the lean tower would pass adapters by: it must be off while they are in."""
    settings = recipe(**world, lora={"rank": 2}, precision="bf16", lr=0.02, mix=0.5)
    folder = train(settings, tmp_path / "run", progress=False)
    tuned, original = load_model(folder), load_model(world["model"])
    pairs = {n: (p, original.backbone.get_parameter(n)) for n, p in tuned.backbone.named_parameters()}
    moved = {n for n, (a, b) in pairs.items() if not torch.equal(a, b)}
    assert moved and all(n.startswith("vis") and n.endswith("weight") for n in moved)
    for n in moved:
        difference = (pairs[n][0] - pairs[n][1]).detach().double()
        assert int(torch.linalg.matrix_rank(difference, rtol=1e-3)) <= 2, n


# visual prompt ------------------------------------------------------------------------------------------------------


def with_prompt(model: DualEncoder, size: int = 3) -> DualEncoder:
    prompt = PaddingPrompt(size, model.image_size)
    with torch.no_grad():
        prompt.value_K.normal_(0, 0.5, generator=torch.Generator().manual_seed(1))
    model.prompt = prompt.requires_grad_(False)
    return model


def test_the_frame_is_a_frame_and_is_added_in_normalised_units(tokenizer) -> None:  # type: ignore[no-untyped-def]
    model, plain = with_prompt(build_tiny_clip(tokenizer)), build_tiny_clip(tokenizer)
    assert model.prompt is not None
    frame = model.prompt().numpy()
    assert len(model.prompt.value_K) == 3 * (16**2 - 10**2)
    assert np.all(frame[:, 3:-3, 3:-3] == 0) and np.all(frame[:, :3] != 0) and np.all(frame[:, :, -3:] != 0)
    image = torch.rand(2, 3, 16, 16)
    shifted = image.numpy() + frame * plain.std_C11.numpy()
    with torch.no_grad():
        expected = plain.encode_image(torch.from_numpy(shifted))
        torch.testing.assert_close(model.encode_image(image), expected, atol=1e-6, rtol=1e-5)
        model.use_lean(torch.float32)
        torch.testing.assert_close(model.encode_image(image), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lean", [True, False])
def test_the_fast_attack_sees_the_frame(tokenizer, precision: str, lean: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    if not lean:
        monkeypatch.setattr("tima.models.lean.supports", lambda model: False)
    bare = ZeroShotClassifier(build_tiny_clip(tokenizer), NAMES)
    classifier = ZeroShotClassifier(with_prompt(build_tiny_clip(tokenizer)), NAMES)
    pixels = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        expected = classifier(pixels)
        found = attack_model(classifier, precision)(pixels)
        assert float((bare(pixels) - expected).abs().max()) > 0.5, "the frame matters here"
    torch.testing.assert_close(found, expected, atol=1e-4 if precision == "fp32" else 0.2, rtol=1e-4)


def test_a_prompt_trained_alone_is_stored_beside_untouched_weights(world: dict[str, str], tmp_path: Path) -> None:
    settings = recipe(**world, prompt={"size": 3, "alone": True, "lr_scale": 50})
    folder = train(settings, tmp_path / "run", progress=False)
    assert sha256_file(folder / "model.safetensors") == sha256_file(Path(world["model"]) / "model.safetensors")
    model, original = load_model(tmp_path / "run"), load_model(world["model"])
    assert model.prompt is not None and not model.prompt.value_K.requires_grad and original.prompt is None
    largest = float(model.prompt.value_K.abs().max())
    assert 0.05 < largest <= 4 * 1e-3 * 50 * 1.1, "Adam moves each number by about lr * lr_scale a step"
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert float((model.encode_image(image) - original.encode_image(image)).abs().max()) > 1e-3
    model.save_pretrained(tmp_path / "copy")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "copy").encode_image(image), model.encode_image(image))
    more = recipe(**{**world, "model": str(tmp_path / "run")}, prompt={"size": 2})
    with pytest.raises(RecipeError, match=r"prompt\.size=3"):
        train(more, tmp_path / "more", progress=False)


@pytest.mark.parametrize("other", ["lora", "awp"])
def test_a_prompt_alone_leaves_nothing_to_do_for_what_is_about_weights(other: str) -> None:
    settings = recipe(prompt={"alone": True}, **{other: {}})
    with pytest.raises(RecipeError, match=f"so {other} has nothing to do"):
        build_modifiers(settings)


def test_the_frame_tells_results_apart(tokenizer) -> None:  # type: ignore[no-untyped-def]
    from tima.evaluation.subject import weights_sha256

    plain, framed, other = build_tiny_clip(tokenizer), with_prompt(build_tiny_clip(tokenizer)), build_tiny_clip(tokenizer)
    with_prompt(other).prompt.value_K.mul_(2)  # type: ignore[union-attr]
    assert len({weights_sha256(model) for model in (plain, framed, other)}) == 3


def test_weight_decay_leaves_the_frame_alone_and_it_has_its_own_rate(tokenizer) -> None:  # type: ignore[no-untyped-def]
    bench = Bench(tokenizer, recipe(prompt={"size": 3, "lr_scale": 7, "init": 1.0}, weight_decay=0.1))
    assert bench.student.prompt is not None
    value = bench.student.prompt.value_K
    assert float(value.detach().std()) == pytest.approx(1, abs=0.1)
    (group,) = [g for g in bench.optimizer.param_groups if any(p is value for p in g["params"])]
    assert (group["lr_scale"], group["weight_decay"]) == (7, 0)


def test_the_original_of_a_new_frame_is_no_frame(tokenizer) -> None:  # type: ignore[no-untyped-def]
    """Also of one that starts at random; a model's own frame is mixed as its weights are."""
    from tima.averaging import Averages

    for student, original in ((build_tiny_clip(tokenizer), 0.0), (with_prompt(build_tiny_clip(tokenizer)), 1.0)):
        settings = recipe(prompt={"size": 3, "init": 1.0, "alone": True}, mix=0.25)
        modifiers = build_modifiers(settings)
        params = modifiers.attach(student, find_method("tecoa")().trainable(student))
        (value,) = params.values()
        start, averages = value.detach().clone(), Averages(params, 0.0, settings.mix, modifiers.adapters)
        with torch.no_grad():
            tuned = value.add_(1).clone()
        with averages.applied(), modifiers.outgoing():
            torch.testing.assert_close(value.detach(), 0.75 * original * start + 0.25 * tuned)
        assert torch.equal(value, tuned)


@pytest.mark.parametrize("size", [0, 8])
def test_a_frame_that_does_not_fit_is_refused(size: int) -> None:
    with pytest.raises(ModelError, match="At most 7"):
        PaddingPrompt(size, 16)


@pytest.mark.parametrize("content", ["cut", "other", "nan"])
def test_a_damaged_or_foreign_prompt_is_refused(tokenizer, tmp_path: Path, content: str) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import save_file

    model = with_prompt(build_tiny_clip(tokenizer))
    assert model.prompt is not None
    if content == "nan":
        model.prompt.value_K.fill_(float("nan"))
    model.save_pretrained(tmp_path)
    file = tmp_path / "visual_prompt.safetensors"
    if content == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    if content == "other":
        save_file({"value_K": torch.zeros(5)}, file, metadata={"padding_prompt": '{"size": 3}'})
    with pytest.raises(ModelError, match=r"visual_prompt\.safetensors"):
        load_model(tmp_path)


@needs_open_clip
def test_prompt_and_adapters_on_an_open_clip_model(tmp_path: Path) -> None:
    """The prompt lies in open_clip's folder too; adapters go where its attention calls its layers; no patches for TGA-ZSR."""
    model = with_prompt(load_model(write_model(tmp_path / "model", CONFIGS["clip"])))
    model.save_pretrained(tmp_path / "copy")
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = model.encode_image(image)
        for place in (tmp_path / "copy", f"local-dir:{tmp_path / 'copy'}"):
            assert torch.equal(load_model(place).encode_image(image), expected)
        model.prompt = None
        assert float((model.encode_image(image) - expected).abs().max()) > 1e-3
    with pytest.raises(ModelError, match="no patch embeddings"):
        model.encode_patches(image)
    pytest.importorskip("peft")
    lora, params = attached(model, rank=2)
    assert params and all(".mlp." in name for name in params)
    with torch.no_grad():
        for p in params.values():
            p.normal_(0, 0.3)
        tuned = model.encode_image(image)
        with lora.outgoing():
            torch.testing.assert_close(model.encode_image(image), tuned, atol=1e-5, rtol=1e-5)


# weight perturbation ------------------------------------------------------------------------------------------------


def test_awp_by_hand_and_own_weights_come_back_after_an_error() -> None:
    matrix, vector, idle = (nn.Parameter(torch.tensor(v)) for v in ([[3.0, 4.0]], [1.0, 1.0], [[2.0, 2.0]]))
    params = {"matrix": matrix, "vector": vector, "idle": idle}
    matrix.grad, vector.grad, idle.grad = torch.tensor([[0.0, 2.0]]), torch.ones(2), torch.zeros(1, 2)
    awp = Awp(AwpSettings(gamma=0.1), first_step=2)
    assert awp.worst_weights(params, 1) is None
    worst = awp.worst_weights(params, 2)
    assert worst is not None
    with pytest.raises(ZeroDivisionError), worst:
        assert matrix.tolist() == [[3.0, 4.5]], "gamma ||w|| g / ||g|| = 0.1 * 5 * (0, 1)"
        assert vector.tolist() == [1, 1] and idle.tolist() == [[2, 2]], "vectors stay, and what has no gradient"
        raise ZeroDivisionError
    assert matrix.tolist() == [[3.0, 4.0]]


def test_the_gradient_is_that_of_the_worst_weights_on_the_same_images(tokenizer) -> None:  # type: ignore[no-untyped-def]
    """Against a slow way: the plain step's gradient, the weights moved by hand, the loss on the plain step's images."""
    plain, sharp = (Bench(tokenizer, recipe(awp=awp, clip_grad=0, augment="none")) for awp in (None, {"gamma": 0.02}))
    seen: list[Tensor] = []
    real = plain.objective.forward
    plain.objective.forward = lambda *a, **k: seen.append((o := real(*a, **k)).adv_BCHW) or o  # type: ignore[method-assign,func-returns-value]
    plain.optimizer.step = sharp.optimizer.step = lambda *a, **k: None  # type: ignore[method-assign,assignment]
    first, logged = plain.step(), sharp.step()
    assert float(first.terms["ce"]) == float(logged.terms["ce"]), "what is logged is the loss at the weights themselves"
    with torch.no_grad():
        for p in plain.params.values():
            if p.ndim > 1:
                p += 0.02 * p.norm() * p.grad / p.grad.norm()  # type: ignore[union-attr]
    logits = plain.student.logits(plain.student.encode_image(seen[0]), plain.objective.text0_CD)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3, 0, 1]))
    assert float(loss.detach()) > float(first.terms["ce"])
    expected = torch.autograd.grad(loss, list(plain.params.values()))
    for p, value in zip(sharp.params.values(), expected, strict=True):
        torch.testing.assert_close(p.grad, value, atol=1e-5, rtol=1e-3)


# single-step attacks and GradAlign ----------------------------------------------------------------------------------


def pull(weight: Tensor) -> Any:
    """Logits (w.x, 0): the cross-entropy of class 1 grows along `weight`."""
    return lambda x: torch.stack([x.flatten(1) @ weight, torch.zeros(len(x))], 1)


def test_n_fgsm_by_hand() -> None:
    weight = torch.tensor([1.0, -1.0, 1.0, 1.0])
    image = torch.tensor([[[[0.5, 0.5], [0.99, 0.01]]]])
    settings, label = AttackSettings(kind="n-fgsm"), torch.ones(1, dtype=torch.long)
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(3)).numpy()
    generator = torch.Generator().manual_seed(3)
    found = inner_attack(settings, pull(weight), image, label, 0.1, 0.05, "ce", generator).numpy()
    start = np.clip(image.numpy() + 0.2 * (2 * noise - 1), 0, 1)
    expected = np.clip(start + 0.1 * np.sign(weight.numpy().reshape(1, 1, 2, 2)), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    reach = [
        float(
            (inner_attack(settings, pull(weight), image, label, 0.1, 0.05, "ce", torch.Generator().manual_seed(i)) - image)
            .abs()
            .max()
        )
        for i in range(20)
    ]
    assert 0.2 < max(reach) <= 0.3, "noise of 2 eps and a step of eps, not projected"
    for size, expected_step in ((0.04, 0.04), (0.5, 0.1)):  # a fixed step is kept, but does not outgrow eps while that warms up
        fixed = AttackSettings(kind="n-fgsm", step_size=size, noise=0)
        moved = inner_attack(fixed, pull(weight), image * 0 + 0.5, label, 0.1, 0.05, "ce", generator) - 0.5
        assert float(moved.abs().max()) == pytest.approx(expected_step, abs=1e-6)


def test_fgsm_starts_at_random_and_stays_in_the_ball() -> None:
    image, label = torch.full((64, 1, 2, 2), 0.5), torch.ones(64, dtype=torch.long)
    weight = torch.tensor([1.0, -1.0, 1.0, 1.0])
    found = inner_attack(
        AttackSettings(kind="fgsm"), pull(weight), image, label, 0.1, 0.1, "ce", torch.Generator().manual_seed(0)
    )
    offset = ((found - image).flatten(1) * weight).numpy()
    assert offset.max() <= 0.1 + 1e-6 and offset.min() >= 0.025 - 1e-6, "from [-eps, eps], 1.25 eps on, at most eps"
    assert np.isclose(offset, 0.1, atol=1e-6).mean() == pytest.approx(0.625, abs=0.1), "starts above -eps / 4 end on the border"


def test_a_nan_gradient_of_the_cheap_attack_stops() -> None:
    with pytest.raises(TrainingError, match="NaN"):
        n_fgsm(
            pull(torch.full((4,), float("nan"))),
            torch.rand(1, 1, 2, 2),
            torch.ones(1, dtype=torch.long),
            0.1,
            step_size=0.1,
            loss="ce",
            generator=torch.Generator(),
        )


def test_grad_align_by_hand_and_its_gradient_reaches_the_weights() -> None:
    """Loss x.Qx / 2 has the gradient Qx; images at 0 have none and do not count."""
    q = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64, requires_grad=True)
    image = torch.tensor([[0.3, 0.6], [0.0, 0.0], [0.9, 0.2]], dtype=torch.float64).view(3, 1, 1, 2)

    def term(q: Tensor) -> Tensor:
        def value(out: Tensor, target: Tensor) -> Tensor:
            return out[:, 0]

        def output(x: Tensor) -> Tensor:
            flat = x.flatten(1).double()
            return ((flat @ q) * flat).sum(1, keepdim=True) / 2

        generator = torch.Generator().manual_seed(4)
        return grad_align(output, image, torch.zeros(3), 0.1, loss=value, generator=generator)

    eta = 0.1 * (2 * torch.rand(3, 1, 1, 2, generator=torch.Generator().manual_seed(4)).double().numpy() - 1).reshape(3, 2)
    x, m = image.numpy().reshape(3, 2), q.detach().numpy()
    first, second = x @ m, (x + eta) @ m
    cos = [first[i] @ second[i] / np.linalg.norm(first[i]) / np.linalg.norm(second[i]) for i in (0, 2)]
    found = term(q)
    assert float(found.detach()) == pytest.approx(1 - np.mean(cos), rel=1e-3)
    (gradient,) = torch.autograd.grad(found, q)
    step = torch.tensor([[0.0, 0.05], [0.05, 0.0]], dtype=torch.float64)
    slope = float((term(q + step) - term(q - step)).detach() / 2)
    assert float((gradient * step).sum()) == pytest.approx(slope, rel=0.02) and slope != 0
    assert (
        float(
            grad_align(
                lambda x: x.flatten(1) * 0, image, torch.zeros(3), 0.1, loss=lambda o, t: o.sum(1), generator=torch.Generator()
            )
        )
        == 0
    )


def test_grad_align_leaves_out_what_is_rounding(tokenizer) -> None:  # type: ignore[no-untyped-def]
    """FARE starts where its loss has no gradient at the clean image: only noise is left there, which cosines blow up."""
    plain, aligned = (
        Bench(tokenizer, recipe(method="fare", clip_grad=0, attack={"steps": 1, "align": align})) for align in (0.0, 0.2)
    )
    plain.step(), aligned.step()
    for p, q in zip(plain.params.values(), aligned.params.values(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, atol=1e-5, rtol=1e-4)
    assert float(aligned.step(1).terms["align"]) > 0, "it is there from the second step on"


@pytest.mark.parametrize(("images", "sizes"), [(5, [2, 1, 1, 1]), (4, [1] * 4), (8, [2] * 4), (3, [1] * 3), (9, [3, 2, 2, 2])])
def test_processes_with_an_image_more_or_less_work_through_as_many_parts(images: int, sizes: list[int]) -> None:
    from tima.train_batch import TrainBatch

    batch = TrainBatch(torch.arange(images)[:, None, None, None], torch.arange(images), [str(i) for i in range(images)])
    parts = batch.parts(4)
    assert [len(p.label_B) for p in parts] == sizes
    assert torch.cat([p.label_B for p in parts]).tolist() == list(range(images))
    assert [text for p in parts for text in p.captions or ()] == list(batch.captions or ())


# recipes ------------------------------------------------------------------------------------------------------------


def test_overrides_switch_modifiers_on_and_off(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe().model_dump(mode="json")))
    assert "lora: null" in file.read_text()
    found = train_recipe(file, ["lora.rank=4", "awp.gamma=0.01", "attack.kind=n-fgsm"])
    assert found.lora is not None and found.lora.rank == 4 and found.awp is not None and found.prompt is None
    assert found.attack.kind == "n-fgsm" and found.attack.noise == 2
    file.write_text(yaml.safe_dump(found.model_dump(mode="json")))
    assert train_recipe(file, ["lora=null"]).lora is None
    with pytest.raises(RecipeError, match=r"lora\.ranks: there is no such setting"):
        train_recipe(file, ["lora.ranks=4"])


def test_a_run_from_before_a_setting_existed_goes_on(world: dict[str, str], tmp_path: Path) -> None:
    settings = recipe(**world, steps=2)
    train(settings, tmp_path / "run", progress=False)
    stored = tmp_path / "run" / "recipe.yaml"
    old = {k: v for k, v in yaml.safe_load(stored.read_text()).items() if k not in ("lora", "prompt", "awp")}
    old["attack"] = {k: v for k, v in old["attack"].items() if k not in ("kind", "noise", "align")}
    stored.write_text(yaml.safe_dump(old))
    assert train(settings, tmp_path / "run", progress=False) == tmp_path / "run" / "model"
    with pytest.raises(Exception, match="other settings"):
        train(replace_recipe(settings, lr=0.5), tmp_path / "run", progress=False)


def replace_recipe(settings: TrainRecipe, **changes: Any) -> TrainRecipe:
    return TrainRecipe(**{**settings.model_dump(), **changes})
