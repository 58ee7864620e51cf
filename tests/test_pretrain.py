"""Pre-training on a handful of pictures: every stage runs, a stopped run goes on to the same weights, caches stay apart."""

import json
from pathlib import Path

import pytest
import torch
from conftest import build_tiny_clip, make_image_set, write_image_folder

from tima.data.augment import augment
from tima.errors import RecipeError
from tima.models import load_model
from tima.pretrain import PretrainRecipe, pretrain
from tima.pretrain.masked import encode_patches
from tima.pretrain.recipe import ImageSource, Shape, Stage
from tima.pretrain.sources import gather_pairs, gather_texts


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
        image=Stage(steps=6, batch_size=8, lr=1e-3, warmup_steps=1),
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
    assert not torch.allclose(encode_patches(tiny_clip, pixels, 0.5, generator), tiny_clip.encode_image(pixels), atol=1e-3)


def test_augmentation_is_keyed_and_stays_in_range() -> None:
    pixels = torch.rand(4, 3, 16, 16)
    first, again, other = (augment(pixels, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert first.equal(again) and not first.equal(other)
    assert first.min() >= 0 and first.max() <= 1 and first.shape == pixels.shape


def test_the_shipped_recipe_is_valid() -> None:
    from tima.config import load_yaml, validate

    shipped = validate(PretrainRecipe, load_yaml("nano"), "nano")
    assert not any(source.data.split(":")[0] == "cifar10" for source in shipped.images)  # held out of everything
    with pytest.raises(RecipeError, match="no such setting"):
        validate(PretrainRecipe, {**load_yaml("nano"), "learning": 1}, "nano")
