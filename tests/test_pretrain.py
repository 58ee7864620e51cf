"""Pre-training on a handful of pictures: every stage runs, a stopped run goes on to the same weights, caches stay apart."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import build_tiny_clip, make_image_set, write_image_folder
from versions import has_muon

from tima.data import find_data
from tima.data.augment import augment
from tima.errors import ModelError, RecipeError, TimaError, TrainingError
from tima.models import load_model
from tima.models.visual_prompt import PaddingPrompt
from tima.pretrain import PretrainRecipe, pretrain
from tima.pretrain.masked import encode_patches
from tima.pretrain.recipe import ImageSource, Shape, Stage
from tima.pretrain.run import _claim, _settled, symmetric_contrastive
from tima.pretrain.sources import gather_pairs, gather_texts
from tima.pretrain.stage import make_optimizers, run_stage
from tima.pretrain.student import save
from tima.pretrain.texts import encode_texts, read_broader


@pytest.fixture(scope="module")
def recipe(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PretrainRecipe:  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("pretrain")
    build_tiny_clip(tokenizer).save_pretrained(root / "teacher")
    images = make_image_set(n=40, classes=4)
    write_image_folder(images, root / "toy" / "train")
    (root / "nouns.txt").write_text("cat\ndog\nhouse\n")
    (root / "sentences.txt").write_text("a house is a building to live in\n")
    return PretrainRecipe(
        teacher=str(root / "teacher"),
        images=[ImageSource(data=f"{root / 'toy'}:train", per_class=8)],
        nouns=str(root / "nouns.txt"),
        sentences=str(root / "sentences.txt"),
        bank_nouns=3,
        shape=Shape(
            image_size=16, patch_size=4, vision_width=64, vision_layers=1, text_width=64, text_layers=1, vocab_size=700
        ),
        text=Stage(steps=4, batch_size=4, lr=1e-3, warmup_steps=1),
        image=Stage(steps=6, batch_size=8, lr=1e-3, warmup_steps=1, ema=0.9),
        save_every=2,
        val=[f"{root / 'toy'}:train"],
    )


def test_a_stopped_run_goes_on_to_the_same_weights(
    recipe: PretrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_model(pretrain(recipe, tmp_path / "whole"))
    import tima.pretrain.run as module

    real, calls = module.encode_patches, []

    def fails(*args: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]

    recipe = recipe.model_copy(update={"tokenizer": str(tmp_path / "whole" / "tokenizer")})
    monkeypatch.setattr(module, "encode_patches", fails)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, tmp_path / "cut")
    monkeypatch.setattr(module, "encode_patches", real)
    cut = load_model(pretrain(recipe, tmp_path / "cut"))
    for a, b in zip(whole.backbone.parameters(), cut.backbone.parameters(), strict=True):
        assert a.equal(b)
    steps = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps if s["stage"] == "image"] == [2, 4, 6]
    assert whole.embed_dim == load_model(recipe.teacher).embed_dim


@pytest.mark.parametrize("fast", [True, False])
def test_a_run_keeps_the_precision_it_began_in(
    recipe: PretrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    """Another processor may go on with it; weights of two precisions in one run would be nobody's."""
    from tima import _precision

    began = "bf16" if fast else "fp32"
    monkeypatch.setattr(_precision, "has_bf16", lambda device: fast)
    assert _settled(recipe, tmp_path).precision == began
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(_settled(recipe, tmp_path).model_dump()))
    (tmp_path / "text.pt").touch()
    monkeypatch.setattr(_precision, "has_bf16", lambda device: not fast)
    assert _settled(recipe, tmp_path).precision == began
    _claim(tmp_path, _settled(recipe, tmp_path))  # the same run
    before = {name: value for name, value in _settled(recipe, tmp_path).model_dump().items() if name != "precision"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(before))  # as runs were stored before they had a precision
    _claim(tmp_path, _settled(recipe, tmp_path))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(before | {"precision": began}))
    other = recipe.model_copy(update={"precision": "fp32" if fast else "bf16"})
    with pytest.raises(TimaError, match=r"other settings \(precision"):
        _claim(tmp_path, _settled(other, tmp_path))


def test_a_run_that_starts_from_a_model_keeps_its_text_tower(recipe: PretrainRecipe, tmp_path: Path) -> None:
    first = load_model(pretrain(recipe, tmp_path / "first"))
    second = recipe.model_copy(update={"start": str(tmp_path / "first")})
    trained = load_model(pretrain(second, tmp_path / "second"))
    for name, p in first.text_parameters().items():
        assert p.equal(trained.text_parameters()[name]), name
    assert not any(p.equal(trained.image_parameters()[name]) for name, p in first.image_parameters().items() if p.ndim > 1)
    assert first.encode_text(["a photo of a cat."]).equal(trained.encode_text(["a photo of a cat."]))
    stages = {json.loads(line)["stage"] for line in (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()}
    config = json.loads((tmp_path / "second" / "model" / "config.json").read_text())
    assert config["dtype"] == "float16" and not any(config[t].get("dtype") for t in ("text_config", "vision_config"))
    assert stages == {"image"} and not (tmp_path / "second" / "text.pt").exists()
    with pytest.raises(RecipeError, match="tokenizer of its own"):
        from tima.config import validate

        validate(PretrainRecipe, {**second.model_dump(), "tokenizer": "nano"}, "toy")


def test_a_model_of_another_embedding_space_is_no_start(recipe: PretrainRecipe, tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    other = build_tiny_clip(tokenizer)
    other.backbone.visual_projection = torch.nn.Linear(32, 5, bias=False)
    other.backbone.text_projection = torch.nn.Linear(32, 5, bias=False)
    other.backbone.config.projection_dim = 5
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="embeds into 5 dimensions, the teacher into 24"):
        pretrain(recipe.model_copy(update={"start": str(tmp_path / "other")}), tmp_path / "run")


def test_what_a_stage_leaves_is_the_running_mean(tiny_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Against the mean written out: decay min(0.2, (1 + t) / (10 + t)), of the weights that training went through."""
    params = {"logit_scale": tiny_clip.backbone.logit_scale}
    seen = [float(params["logit_scale"].detach())]

    def loss_fn(step: int, g: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if step:
            seen.append(float(params["logit_scale"].detach()))
        return params["logit_scale"] ** 2, {}

    stage = Stage(steps=4, batch_size=1, lr=0.1, warmup_steps=1, ema=0.2)
    run_stage("image", stage, params, tiny_clip, loss_fn, tmp_path, seed=0, save_every=1)
    left = float(params["logit_scale"].detach())
    assert left == float(torch.load(tmp_path / "image.pt", weights_only=True)["model"]["logit_scale"])
    (tmp_path / "plain").mkdir()
    plain = Stage(steps=4, batch_size=1, lr=0.1, warmup_steps=1)
    with torch.no_grad():
        params["logit_scale"].fill_(seen[0])
    run_stage("image", plain, params, tiny_clip, loss_fn, tmp_path / "plain", seed=0, save_every=1)
    visited = [*seen[1:4], float(params["logit_scale"].detach())]  # after each of the four steps
    mean = seen[0]
    for t, value in enumerate(visited):
        decay = min(0.2, (1 + t) / (10 + t))
        mean = decay * mean + (1 - decay) * value
    assert left == pytest.approx(mean, abs=1e-6) and abs(left - visited[-1]) > 1e-3


def test_a_loss_that_is_not_a_number_leaves_the_checkpoint_whole(tiny_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    params = {"logit_scale": tiny_clip.backbone.logit_scale}

    def loss_fn(step: int, g: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        kl = params["logit_scale"] * (float("nan") if step == 3 else 1.0)
        return kl, {"kl": kl}

    with pytest.raises(TrainingError, match=r"image, step 3: .*kl = nan.*last good checkpoint is .*image\.pt"):
        run_stage(
            "image",
            Stage(steps=4, batch_size=1, lr=0.1, warmup_steps=1),
            params,
            tiny_clip,
            loss_fn,
            tmp_path,
            seed=0,
            save_every=1,
        )
    kept = torch.load(tmp_path / "image.pt", weights_only=True)
    assert kept["step"] == 3 and float(kept["model"]["logit_scale"]) == float(params["logit_scale"].detach())


def test_a_folder_with_other_settings_is_refused(recipe: PretrainRecipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump()))
    faster = recipe.model_copy(update={"image": recipe.image.model_copy(update={"lr": 0.5}), "seed": 3})
    _claim(tmp_path, faster)  # nothing has been made yet that could be taken over
    (tmp_path / "cache").mkdir()
    with pytest.raises(TimaError, match=r"other settings \(image, seed; see .*--recipe .*recipe\.yaml"):
        _claim(tmp_path, faster)
    _claim(tmp_path, recipe)
    _claim(tmp_path, recipe.model_copy(update={"teacher": "/elsewhere/teacher", "save_every": 7, "val": []}))
    with pytest.raises(TimaError, match="start"):
        _claim(tmp_path, recipe.model_copy(update={"start": "nano"}))


def test_float16_that_would_overflow_is_not_saved(tiny_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for value in (7e4, float("nan")):
        with torch.no_grad():
            tiny_clip.backbone.visual_projection.weight[0, 0] = value
        with pytest.raises(TrainingError, match=r"visual_projection\.weight"):
            save(tiny_clip, tmp_path)
    assert not (tmp_path / "model").exists()


def test_sources_are_drawn_by_their_weight(recipe: PretrainRecipe) -> None:
    heavy = recipe.images[0].model_copy(update={"weight": 3.0})
    pairs = gather_pairs(recipe.model_copy(update={"images": [heavy]}))
    assert pairs.weight_N.tolist() == [3.0] * 32
    captioned = gather_pairs(recipe.model_copy(update={"captions": ["pictures/captions.parquet"], "caption_weight": 2.0}))
    assert len(captioned.weight_N) == len(captioned) and captioned.weight_N[:32].eq(1).all()
    assert captioned.weight_N[32:].eq(2).all() and len(captioned) > 32


def test_pairs_and_texts(recipe: PretrainRecipe) -> None:
    pairs = gather_pairs(recipe)
    assert len(pairs) == 4 * 8 and pairs.corpora == {"toy": 32} and set(pairs.text_N) == {"cat", "dog", "tree", "boat"}
    texts, bank = gather_texts(recipe, pairs)
    assert bank == ["boat", "cat", "dog", "tree", "house"] and "house" in texts and "a photo of a tree." in texts
    fewer = recipe.model_copy(update={"images": [recipe.images[0].model_copy(update={"per_class": 7})]})
    assert gather_pairs(fewer).digest("toy") != pairs.digest("toy")  # other pictures, other cache files


def test_all_patches_kept_is_the_ordinary_tower(tiny_clip) -> None:  # type: ignore[no-untyped-def]
    """With every patch kept in a shuffled order the embedding is the ordinary one: attention knows no order."""
    pixels = torch.rand(3, 3, 16, 16)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(encode_patches(tiny_clip, pixels, 1.0, generator), tiny_clip.encode_image(pixels))
    torch.testing.assert_close(
        encode_patches(tiny_clip, pixels, 0.99, generator), tiny_clip.encode_image(pixels), atol=1e-5, rtol=0
    )
    rough = encode_patches(tiny_clip, pixels, 1.0, generator, torch.bfloat16)
    assert float((rough * tiny_clip.encode_image(pixels)).sum(-1).detach().min()) > 0.999 and rough.dtype == torch.float32
    assert not torch.allclose(encode_patches(tiny_clip, pixels, 0.5, generator), tiny_clip.encode_image(pixels), atol=1e-3)


def test_a_model_with_a_visual_prompt_is_trained_on_with_it(tokenizer) -> None:  # type: ignore[no-untyped-def]
    model, pixels = build_tiny_clip(tokenizer), torch.rand(3, 3, 16, 16)
    bare = encode_patches(model, pixels, 1.0, torch.Generator())
    model.prompt = PaddingPrompt(3, 16).requires_grad_(False)
    model.prompt.value_K.fill_(0.7)
    found = encode_patches(model, pixels, 1.0, torch.Generator())
    torch.testing.assert_close(found, model.encode_image(pixels), atol=1e-5, rtol=1e-4)
    assert float((found - bare).detach().abs().max()) > 1e-2


def test_augmentation_is_keyed_and_stays_in_range() -> None:
    pixels = torch.rand(4, 3, 16, 16)
    first, again, other = (augment(pixels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)
    assert first.min() >= 0 and first.max() <= 1 and first.shape == pixels.shape


@pytest.mark.parametrize("name", ["nano", "nano-fourth", "nano-second", "nano-first"])
def test_the_shipped_recipes_are_valid(name: str) -> None:
    from tima.config import load_yaml, validate

    shipped = validate(PretrainRecipe, load_yaml(name), name)
    assert not any(source.data.split(":")[0] == "cifar10" for source in shipped.images)  # held out of everything
    assert (shipped.start is None) == (name == "nano-first")
    with pytest.raises(RecipeError, match="no such setting"):
        validate(PretrainRecipe, {**load_yaml(name), "learning": 1}, name)


def test_broader_words_say_what_a_class_is_a_kind_of(recipe: PretrainRecipe, tiny_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "broader.yaml").write_text("pet: [cat, dog]\nanimal: [cat, dog, horse]\n")
    broader = read_broader(str(tmp_path / "broader.yaml"))
    assert broader == {"cat": ["pet", "animal"], "dog": ["pet", "animal"], "horse": ["animal"]}
    pairs = gather_pairs(recipe)
    said = encode_texts(tiny_clip, pairs, ["{c}", "a photo of a {c}."], broader)
    rows_B = torch.tensor([pairs.text_N.index(name) for name in ("cat", "dog", "tree", "boat")])

    never_BD, true_BB = said.draw(rows_B, 0.0, torch.Generator().manual_seed(0))
    assert true_BB.equal(torch.eye(4, dtype=torch.bool)) and never_BD.shape == (4, 24)
    always_BD, true_BB = said.draw(rows_B, 1.0, torch.Generator().manual_seed(0))
    # pet or animal is true of cat and dog alike; a tree and a boat have no broader words and keep their names
    assert true_BB.equal(torch.block_diag(torch.ones(2, 2), torch.eye(2)).bool())
    prompts = [t.replace("{c}", w) for w in ("pet", "animal") for t in ("{c}", "a photo of a {c}.")]
    distance = torch.cdist(always_BD[:2], tiny_clip.encode_text(prompts).detach())
    assert distance.min(1).values.max() < 1e-5
    words = {
        str(said.draw(rows_B[:1], 1.0, torch.Generator().manual_seed(s))[0].argmax().item()) for s in range(20)
    }  # both words and both templates come up
    assert len(words) > 1


def test_the_shipped_broader_words_are_words_of_the_class_lists() -> None:
    broader = read_broader("builtin")
    assert broader["golden retriever"] == ["dog", "mammal", "animal"] and "vehicle" in broader["school bus"]
    assert not any(name in words for name, words in broader.items())
    known = set(find_data("pictures:train").class_names)
    assert {"horse", "ship", "taxi", "guitar"} <= set(broader) & known


def test_bad_broader_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no file .*nowhere\.yaml"):
        read_broader(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "flat.yaml").write_text("dog: poodle\n")
    with pytest.raises(RecipeError, match="'dog' needs a list"):
        read_broader(str(tmp_path / "flat.yaml"))
    assert read_broader(None) == {}


def test_contrastive_loss_shares_the_target_among_all_that_is_true() -> None:
    """Against the two directions written out by hand for three pairs, the first two with one text."""
    logits_BB = torch.tensor([[2.0, 1.0, 0.0], [0.5, 1.5, -1.0], [0.0, 0.2, 3.0]], dtype=torch.float64)
    true_BB = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    p, q = np.asarray(logits_BB.log_softmax(1)), np.asarray(logits_BB.log_softmax(0))
    to_text = -((p[0, 0] + p[0, 1]) / 2 + (p[1, 0] + p[1, 1]) / 2 + p[2, 2]) / 3
    to_image = -((q[0, 0] + q[1, 0]) / 2 + (q[0, 1] + q[1, 1]) / 2 + q[2, 2]) / 3
    assert float(symmetric_contrastive(logits_BB, true_BB).double()) == pytest.approx((to_text + to_image) / 2, rel=1e-6)


@has_muon
def test_muon_takes_the_matrices_inside_the_layers(tiny_clip) -> None:  # type: ignore[no-untyped-def]
    stage = Stage(steps=1, batch_size=1, lr=1e-3, optimizer="muon")
    params = tiny_clip.image_parameters()
    adamw, muon = make_optimizers(stage, params)
    inside = {id(p) for group in muon.param_groups for p in group["params"]}
    named = {name for name, p in params.items() if id(p) in inside}
    assert named == {name for name, p in params.items() if ".layers." in name and name.endswith("weight") and p.ndim == 2}
    assert len(named) == 2 * 6  # query, key, value, out and the two of the MLP, in both layers
    everything = inside | {id(p) for group in adamw.param_groups for p in group["params"]}
    assert everything == {id(p) for p in params.values()}
    assert len(make_optimizers(Stage(steps=1, batch_size=1, lr=1e-3), params)) == 1


@has_muon
@pytest.mark.parametrize("bf16", [True, False])
def test_muon_says_where_it_will_be_slow(tiny_clip, monkeypatch, capsys, bf16: bool) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tima.pretrain.stage.has_bf16", lambda device: bf16)
    make_optimizers(Stage(steps=1, batch_size=1, lr=1e-3, optimizer="muon"), tiny_clip.image_parameters())
    assert ("no instructions" in " ".join(capsys.readouterr().out.split())) != bf16


@has_muon
def test_a_stopped_muon_run_goes_on_to_the_same_weights(tiny_clip, tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    def run(out: Path, steps_before_stop: int) -> dict[str, torch.Tensor]:
        out.mkdir()
        model = build_tiny_clip(tokenizer)
        params, calls = model.image_parameters(), []

        def loss_fn(step: int, g: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            calls.append(step)
            if len(calls) == steps_before_stop + 1:
                raise KeyboardInterrupt
            return model.encode_image(torch.rand(4, 3, 16, 16, generator=g))[:, 0].sum(), {}

        stage = Stage(steps=5, batch_size=4, lr=1e-2, warmup_steps=1, optimizer="muon")
        again = dict(seed=0, save_every=2)
        try:
            run_stage("image", stage, params, model, loss_fn, out, **again)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            steps_before_stop = -1
            model = build_tiny_clip(tokenizer)
            params = model.image_parameters()
            run_stage("image", stage, params, model, loss_fn, out, **again)  # type: ignore[arg-type]
        return {name: p.detach() for name, p in params.items()}

    whole, cut = run(tmp_path / "whole", 99), run(tmp_path / "cut", 3)
    assert all(whole[name].equal(cut[name]) for name in whole)
    start = build_tiny_clip(tokenizer).image_parameters()
    assert not any(whole[name].equal(p) for name, p in start.items() if ".layers." in name and p.ndim == 2)
