"""Two-tower models: equality with the library's own forward, and errors that name the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, build_tiny_clip
from exported import tiny_siglip, tiny_two_tower
from PIL import Image
from processors import CLIPImageProcessorPil
from torch import Tensor

from tima.data import decode
from tima.errors import DataError, ModelError
from tima.models import DualEncoder, ZeroShotClassifier, encode_classes, load_model, nano_folder
from tima.models.hugging_face import CLIP_MEAN, CLIP_STD, HuggingFaceEncoder

NAMES = ["cat", "dog", "small tree", "sailing boat"]
TEXTS = ["a cat", "a photo of the small dog and a sailing boat, with a red apple and a guitar.", "tree"]


def siglip(tokenizer: Any) -> HuggingFaceEncoder:
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return tiny_siglip(tokenizer, 16, **ids)


def two_tower(tokenizer: Any) -> HuggingFaceEncoder:
    return tiny_two_tower(tokenizer, 64)


BUILDERS: dict[str, Callable[[Any], HuggingFaceEncoder]] = {
    "clip quick_gelu": lambda t: build_tiny_clip(t, hidden_act="quick_gelu"),
    "clip gelu": lambda t: build_tiny_clip(t, hidden_act="gelu"),
    "siglip": siglip,
    "vision-text-dual-encoder": two_tower,
}


@pytest.fixture(params=list(BUILDERS))
def encoder(request: pytest.FixtureRequest, tokenizer: Any) -> HuggingFaceEncoder:
    return BUILDERS[request.param](tokenizer)


@pytest.fixture(scope="session")
def good_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "good"
    build_tiny_clip(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(good_folder: Path, tmp_path: Path) -> Path:
    """A copy of a whole model folder, to be damaged."""
    return Path(shutil.copytree(good_folder, tmp_path / "model"))


def pictures(count: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20 + 7 * i, 31, 3)).astype(np.uint8)) for i in range(count)]


def decoded(images: list[Image.Image], tmp_path: Path, size: int = 16) -> Tensor:
    rows = []
    for i, image in enumerate(images):
        image.save(tmp_path / f"{i}.png")
        rows.append(decode(tmp_path / f"{i}.png", size).float() / 255)
    return torch.stack(rows)


# equality with the library -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_logits_equal_the_librarys_own_forward(encoder: HuggingFaceEncoder, tmp_path: Path) -> None:
    grid = {"height": 16, "width": 16}
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 16},
        crop_size=grid,
        image_mean=encoder.mean_C11.flatten().tolist(),
        image_std=encoder.std_C11.flatten().tolist(),
    )
    images = pictures()
    tokens = encoder.tokenizer(
        TEXTS, padding="max_length", max_length=encoder.context_length, truncation=True, return_tensors="pt"
    )
    if encoder.backbone.config.model_type == "siglip":
        tokens = {"input_ids": tokens["input_ids"]}
    theirs = encoder.backbone(pixel_values=processor(images, return_tensors="pt")["pixel_values"], **tokens).logits_per_image
    ours = encoder.logits(encoder.encode_image(decoded(images, tmp_path)), encoder.encode_text(TEXTS))
    assert ours.shape == (3, len(TEXTS))
    assert theirs.std() > 0.05, "random weights must tell the texts and images apart, or equality means nothing"
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_text_cut_to_the_longest_prompt_has_the_embeddings_of_full_length(encoder: HuggingFaceEncoder) -> None:
    tokens = encoder.tokenize(TEXTS)
    full = encoder.tokenizer(
        TEXTS, padding="max_length", max_length=encoder.context_length, truncation=True, return_tensors="pt"
    )
    longest = int(full["attention_mask"].sum(1).max())
    expected = encoder.context_length if encoder.backbone.config.model_type == "siglip" else longest
    assert tokens["input_ids"].shape == (len(TEXTS), expected)
    padded_CD = encoder.encode_text({key: full[key] for key in tokens})
    torch.testing.assert_close(encoder.encode_text(TEXTS), padded_CD, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_text_alone_and_in_company_has_one_embedding(encoder: HuggingFaceEncoder) -> None:
    alone_1D, company_CD = encoder.encode_text(TEXTS[:1]), encoder.encode_text(TEXTS)
    torch.testing.assert_close(alone_1D[0], company_CD[0], rtol=0, atol=1e-5)


@torch.no_grad()
def test_overlong_texts_are_cut_not_fatal(encoder: HuggingFaceEncoder) -> None:
    assert encoder.encode_text(["cat " * 1000]).isfinite().all()
    assert encoder.tokenize(["cat " * 1000])["input_ids"].shape[1] <= encoder.context_length


def test_siglip_has_a_bias_and_clip_has_none(tokenizer: Any, tiny_clip: HuggingFaceEncoder) -> None:
    sigmoid = siglip(tokenizer)
    assert sigmoid.logit_bias is not None and float(sigmoid.logit_bias.detach()) == -3
    assert tiny_clip.logit_bias is None
    assert tiny_clip.logit_scale.ndim == sigmoid.logit_scale.ndim == 0


@torch.no_grad()
def test_logits_are_fp32_under_autocast(tiny_clip: HuggingFaceEncoder) -> None:
    image_BD, text_CD = F.normalize(torch.randn(5, 24), dim=-1), F.normalize(torch.randn(7, 24), dim=-1)
    plain = tiny_clip.logits(image_BD, text_CD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = tiny_clip.logits(image_BD, text_CD)
        features = tiny_clip.encode_image(torch.rand(2, 3, 16, 16))
    assert cast.dtype == torch.float32 and torch.equal(plain, cast)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2))


def test_unnormalised_embeddings_on_request(tiny_clip: HuggingFaceEncoder) -> None:
    raw_BD = tiny_clip.encode_image(torch.rand(2, 3, 16, 16), normalize=False)
    assert (raw_BD.norm(dim=-1) - 1).abs().min() > 1e-3


# parameters and gradients --------------------------------------------------------------------------------------------


def test_every_parameter_belongs_to_one_tower_or_is_the_scale_or_bias(encoder: HuggingFaceEncoder) -> None:
    image, text = set(encoder.image_parameters()), set(encoder.text_parameters("full"))
    rest = {name for name, _ in encoder.backbone.named_parameters()} - image - text
    assert image and text and not image & text
    assert rest <= {"logit_scale", "logit_bias"}
    projection = set(encoder.text_parameters("projection"))
    assert projection and projection < text
    assert encoder.text_parameters("none") == {}
    with pytest.raises(ModelError, match="'full', 'projection' or 'none'"):
        encoder.text_parameters("half")


def test_towers_depend_on_their_own_parameters_only(encoder: HuggingFaceEncoder) -> None:
    image = encoder.encode_image(torch.rand(2, 3, 16, 16))[:, 0].sum()
    text = encoder.encode_text(TEXTS)[:, 0].sum()
    for output, own, other in (
        (image, encoder.image_parameters(), encoder.text_parameters()),
        (text, encoder.text_parameters(), encoder.image_parameters()),
    ):
        grads = torch.autograd.grad(output, list(own.values()) + list(other.values()), allow_unused=True, retain_graph=True)
        assert any(g is not None and g.abs().sum() > 0 for g in grads[: len(own)])
        assert all(g is None for g in grads[len(own) :])


def test_gradients_reach_the_pixels_and_no_weight_of_a_loaded_model(folder: Path) -> None:
    model = load_model(folder)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    classifier = ZeroShotClassifier(model, NAMES)
    image_BCHW = torch.rand(2, 3, 16, 16, requires_grad=True)
    F.cross_entropy(classifier(image_BCHW), torch.tensor([0, 1])).backward()
    assert image_BCHW.grad is not None and image_BCHW.grad.abs().sum() > 0
    assert all(p.grad is None for p in classifier.parameters())


def test_gradients_reach_the_weights_that_a_trainer_enables(tiny_clip: HuggingFaceEncoder) -> None:
    tiny_clip.requires_grad_(False)
    chosen = {name: p.requires_grad_(True) for name, p in tiny_clip.text_parameters("projection").items()}
    text_CD = encode_classes(tiny_clip, NAMES)
    tiny_clip.logits(torch.eye(24)[:2], text_CD).sum().backward()
    assert {name for name, p in tiny_clip.backbone.named_parameters() if p.grad is not None} == set(chosen)


def test_gradient_of_the_pixels_is_right(tiny_clip: HuggingFaceEncoder) -> None:
    """Against a central difference along a random direction."""
    classifier = ZeroShotClassifier(tiny_clip, NAMES)
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    direction = F.normalize(torch.randn(image.numel()), dim=0).view_as(image)
    (gradient,) = torch.autograd.grad(classifier(image)[0, 1], image)
    with torch.no_grad():
        h = 3e-2
        slope = (classifier(image + h * direction) - classifier(image - h * direction))[0, 1] / (2 * h)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=2e-2, abs=1e-3)


# the classifier ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_template_ensembling_equals_a_slow_loop(encoder: HuggingFaceEncoder) -> None:
    templates = ["a photo of a {c}.", "{c}", "the {c} and another {c}"]
    rows = []
    for name in NAMES:
        prompts = [encoder.encode_text([template.replace("{c}", name)])[0] for template in templates]
        rows.append(F.normalize(torch.stack(prompts).mean(0), dim=0))
    for chunk in (512, 2, 5):
        torch.testing.assert_close(encode_classes(encoder, NAMES, templates, chunk=chunk), torch.stack(rows), rtol=0, atol=1e-5)


@torch.no_grad()
def test_classifier_is_scale_times_cosine(encoder: HuggingFaceEncoder) -> None:
    classifier = ZeroShotClassifier(encoder, NAMES)
    image_BCHW = torch.rand(3, 3, 16, 16)
    cosine_BC = encoder.encode_image(image_BCHW) @ encode_classes(encoder, NAMES).T
    bias = encoder.logit_bias if encoder.logit_bias is not None else 0
    torch.testing.assert_close(classifier(image_BCHW), encoder.logit_scale * cosine_BC + bias)


@torch.no_grad()
def test_refresh_follows_the_text_tower(tiny_clip: HuggingFaceEncoder) -> None:
    classifier = ZeroShotClassifier(tiny_clip, NAMES)
    before = classifier.text_CD.clone()
    for p in tiny_clip.text_parameters("projection").values():
        p.add_(torch.randn_like(p))
    assert torch.equal(classifier.text_CD, before)
    classifier.refresh()
    assert not torch.allclose(classifier.text_CD, before)
    torch.testing.assert_close(classifier.text_CD, encode_classes(tiny_clip, NAMES))
    assert "text_CD" not in classifier.state_dict()


def test_refresh_is_without_dropout_and_leaves_the_mode_alone(tokenizer: Any) -> None:
    model = two_tower(tokenizer)  # BERT drops 10 %
    still = ZeroShotClassifier(model, NAMES).text_CD
    model.train()
    model.backbone.vision_model.eval()
    assert torch.equal(ZeroShotClassifier(model, NAMES).text_CD, still)
    assert model.training and model.backbone.text_model.training and not model.backbone.vision_model.training


def test_class_lists_and_templates_are_checked(tiny_clip: HuggingFaceEncoder) -> None:
    with pytest.raises(DataError, match="given twice"):
        ZeroShotClassifier(tiny_clip, ["cat", " CAT"])
    with pytest.raises(DataError, match=r"no '\{c\}'"):
        ZeroShotClassifier(tiny_clip, NAMES, ["a photo"])
    for names in ("cat", []):
        with pytest.raises(DataError, match="list"):
            ZeroShotClassifier(tiny_clip, names)
        with pytest.raises(DataError, match="list"):
            encode_classes(tiny_clip, names)
    with pytest.raises(DataError, match=r"no '\{c\}'"):
        encode_classes(tiny_clip, NAMES, ["a photo"])


# wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "float pixels.*Divide uint8 images by 255"),
        (torch.zeros(1, 3, 32, 32), "B x 3 x 16 x 16, not 1 x 3 x 32 x 32"),
        (torch.zeros(1, 3, 16, 8), "not 1 x 3 x 16 x 8"),
        (torch.zeros(1, 1, 16, 16), "not 1 x 1 x 16 x 16"),
        (torch.zeros(1, 4, 16, 16), "not 1 x 4 x 16 x 16"),
        (torch.zeros(3, 16, 16), "not 3 x 16 x 16"),
    ],
)
def test_images_that_cannot_be_encoded(tiny_clip: HuggingFaceEncoder, image: Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tiny_clip.encode_image(image)


@torch.no_grad()
def test_images_of_other_float_types_are_taken(tiny_clip: HuggingFaceEncoder) -> None:
    image = (torch.rand(2, 3, 16, 16) * 255).round() / 255
    expected = tiny_clip.encode_image(image)
    torch.testing.assert_close(tiny_clip.encode_image(image.double()), expected)
    torch.testing.assert_close(tiny_clip.encode_image(image.half()), expected, rtol=0, atol=1e-2)


def test_texts_that_cannot_be_encoded(tiny_clip: HuggingFaceEncoder) -> None:
    with pytest.raises(ModelError, match="list of texts"):
        tiny_clip.encode_text("a cat")
    with pytest.raises(ModelError, match="no texts"):
        tiny_clip.encode_text([])


# folders -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_save_and_load_give_equal_logits(encoder: HuggingFaceEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert type(loaded) is HuggingFaceEncoder
    assert (loaded.image_size, loaded.embed_dim) == (encoder.image_size, encoder.embed_dim)
    image_BCHW = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(ZeroShotClassifier(loaded, NAMES)(image_BCHW), ZeroShotClassifier(encoder, NAMES)(image_BCHW))
    assert {f.suffix for f in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}


@torch.no_grad()
def test_the_library_loads_what_we_save(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel, CLIPProcessor

    ours = load_model(folder)
    theirs = CLIPModel.from_pretrained(folder).eval()
    image_BCHW = decoded(pictures(), tmp_path)
    normalised_BCHW = (image_BCHW - ours.mean_C11) / ours.std_C11
    for processor in (CLIPProcessor.from_pretrained(folder).image_processor, CLIPImageProcessor.from_pretrained(folder)):
        pixels = processor(pictures(), return_tensors="pt")["pixel_values"]
        one_level = float(1 / 255 / ours.std_C11.min())  # where torchvision is installed, its resizing rounds otherwise
        torch.testing.assert_close(pixels, normalised_BCHW, rtol=0, atol=1.01 * one_level)
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    logits = theirs(pixel_values=normalised_BCHW, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    mine = ours.logits(ours.encode_image(image_BCHW), ours.encode_text(TEXTS))
    torch.testing.assert_close(mine, logits.logits_per_image, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_folder_saved_by_the_library_keeps_its_own_mean(folder: Path) -> None:
    from transformers import CLIPProcessor

    processor = CLIPProcessor.from_pretrained(folder)
    processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    for file in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / file).unlink()
    processor.save_pretrained(folder)
    assert load_model(folder).mean_C11.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_without_a_preprocessor_file_a_clip_gets_clips_normalisation(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    model = load_model(folder)
    assert model.mean_C11.flatten().tolist() == pytest.approx(list(CLIP_MEAN))
    assert model.std_C11.flatten().tolist() == pytest.approx(list(CLIP_STD))


@torch.no_grad()
def test_half_precision_weights_are_loaded_as_fp32(folder: Path) -> None:
    model = load_model(folder)
    model.backbone.half()
    model.save_pretrained(folder)
    loaded = load_model(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert loaded.encode_image(torch.rand(1, 3, 16, 16)).dtype == torch.float32


def test_a_runs_folder_gives_its_best_model(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("")
    with pytest.raises(ModelError, match=r"run without a finished model.*--resume"):
        load_model(run)
    shutil.copytree(folder, run / "model")
    assert load_model(run).name == str(run)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def other_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def unknown_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "frobnicate"}))


def other_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"projection_dim": 12}))


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def incomplete(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def broken_preprocessor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_config, r"model holds no model: there is no config\.json"),
        (broken_config, r"config\.json cannot be read as JSON"),
        (list_config, r"config\.json names no model_type"),
        (other_model, "is a 'bert' model; supported are clip, siglip, vision-text-dual-encoder"),
        (unknown_model, "model.*frobnicate"),
        (other_shape, "model' cannot be loaded"),
        (truncated, r"model\.safetensors: damaged weights"),
        (garbage, r"model\.safetensors: damaged weights"),
        (no_weights, r"model\.safetensors is missing"),
        (pickled, r"only as pytorch_model\.bin, a format that can run code"),
        (incomplete, r"lacks 1 of the model's parameters, first visual_projection\.weight"),
        (no_tokenizer, "model'.* tokenizer.*tokenizer.json"),
        (broken_tokenizer, "model'.* tokenizer cannot be loaded"),
        (broken_preprocessor, r"preprocessor_config\.json cannot be read"),
    ],
)
def test_damaged_folders_are_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", " ", "./nowhere", "/nowhere/model", "~/nowhere", "a/b/c", "weights.safetensors", "x/model.pt"]
)
def test_names_of_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"does not exist|No model was named"):
        load_model(name)


def test_a_file_is_not_a_folder(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors is a file\. Give the folder"):
        load_model(folder / "model.safetensors")


def test_a_hub_name_with_a_dot_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("tima.models.hugging_face.load_hugging_face", lambda source, name=None: asked.append(source))
    load_model("org/model-v1.5")
    assert asked == ["org/model-v1.5"]


def test_a_torchvision_of_another_build_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPModel

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(CLIPModel, "from_pretrained", fail)
    with pytest.raises(ModelError, match="torchvision that is installed was built for another torch"):
        load_model(folder)


# real models ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def check_real(model: DualEncoder) -> None:
    image_BCHW = torch.rand(2, 3, model.image_size, model.image_size)
    logits_BC = ZeroShotClassifier(model, NAMES)(image_BCHW)
    assert logits_BC.shape == (2, len(NAMES)) and logits_BC.isfinite().all()
    assert logits_BC.std() > 0


def test_embedded_nano_loads() -> None:
    if not (nano_folder() / "config.json").is_file():
        pytest.skip("the embedded model has not been built yet (src/tima/assets/nano)")
    model = load_model("nano")
    assert model.name == "nano"
    check_real(model)


def test_a_missing_nano_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tima.models.load.nano_folder", lambda: tmp_path)
    with pytest.raises(ModelError, match="no embedded model"):
        load_model("nano")


def test_pre_trained_dual_encoder_loads() -> None:
    source = SHARED / "lit-vits14-minilm"
    if not source.is_dir():
        pytest.skip(f"the development model is not at {source.parent.name}/{source.name}")
    model = load_model(source)
    assert (model.image_size, model.embed_dim) == (112, 384)
    assert model.mean_C11.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    check_real(model)


def test_attention_can_be_chosen_and_changes_no_embedding(tiny_clip: HuggingFaceEncoder) -> None:
    pixels = torch.rand(2, 3, 16, 16)
    tiny_clip.use_attention("sdpa")
    fused = tiny_clip.encode_image(pixels)
    assert tiny_clip.use_attention("eager") == "sdpa"
    torch.testing.assert_close(tiny_clip.encode_image(pixels), fused, atol=1e-5, rtol=0)
