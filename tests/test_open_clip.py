"""The open_clip back end, on small models written by the tests. Skipped where the extra is not installed."""

import importlib.abc
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from tima.data import decode
from tima.errors import ModelError
from tima.models import ZeroShotClassifier, encode_classes, load_model
from tima.models.open_clip import OpenClipEncoder, import_open_clip

needs_open_clip = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="the extra is not installed: pip install 'tima[open-clip]'"
)
NAMES = ["cat", "dog", "small tree", "sailing boat"]
TEXTS = ["a cat", "a photo of the small dog and a sailing boat, with a red apple and a guitar.", "tree"]
VISION = {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "clip gelu": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT},
    "clip eos": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407}},
    "clip projection with bias": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT | {"proj_bias": True}},
    "clip both ways": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT | {"no_causal_mask": True}},
    "custom text": {"embed_dim": 24, "custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "siglip": {
        "embed_dim": 24,
        "custom_text": True,
        "init_logit_bias": -3.0,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"context_length": 32, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
}
CUT = {"clip", "clip gelu", "clip eos", "clip projection with bias"}
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.26, 0.27]


def write_model(folder: Path, config: dict[str, Any], **preprocess: Any) -> Path:
    """An open_clip folder with random weights, as that library writes it."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    settings = {key: value for key, value in config.items() if key != "custom_text"}
    kind = (
        open_clip.CoCa
        if "multimodal_cfg" in config
        else open_clip.CustomTextCLIP
        if config.get("custom_text")
        else open_clip.CLIP
    )
    model = kind(**settings)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and "embedding" not in name:
                p.normal_(0, 0.15)
            if "embedding" in name:
                p.normal_()
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"} | preprocess
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "oc", CONFIGS["clip"])


# equality with the library -------------------------------------------------------------------------------------------


@needs_open_clip
@torch.no_grad()
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_logits_equal_the_librarys_own(kind: str, tmp_path: Path) -> None:
    import open_clip

    source = f"local-dir:{write_model(tmp_path / 'oc', CONFIGS[kind])}"
    theirs, _, transform = open_clip.create_model_and_transforms(source)
    theirs.eval()
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (side, side, 3)).astype(np.uint8)) for side in (16, 31, 45)]
    pixels = torch.stack([transform(image) for image in images])
    expected, _ = theirs.get_logits(pixels, open_clip.get_tokenizer(source)(TEXTS))

    ours = load_model(source)
    assert isinstance(ours, OpenClipEncoder)
    rows: list[Tensor] = []
    for image in images:
        image.save(tmp_path / "x.png")
        rows.append(decode(tmp_path / "x.png", 16).float() / 255)
    got = ours.logits(ours.encode_image(torch.stack(rows)), ours.encode_text(TEXTS))
    assert expected.std() > 0.05, "random weights must tell the texts and images apart, or equality means nothing"
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(ours.logit_scale.clamp(min=1)))
    assert (ours.logit_bias is not None) == (kind == "siglip")
    assert ours.mean_C11.flatten().tolist() == pytest.approx(MEAN)


@needs_open_clip
@torch.no_grad()
@pytest.mark.parametrize("kind", list(CONFIGS))
def test_text_is_cut_only_where_that_changes_nothing(kind: str, tmp_path: Path) -> None:
    ours = load_model(f"local-dir:{write_model(tmp_path / 'oc', CONFIGS[kind])}")
    assert isinstance(ours, OpenClipEncoder)
    full_CL = ours.tokenizer(TEXTS)
    ids_CL = ours.tokenize(TEXTS)["input_ids"]
    assert ids_CL.shape[1] == (int((full_CL != 0).sum(1).max()) if kind in CUT else full_CL.shape[1])
    theirs_CD = F.normalize(ours.backbone.encode_text(full_CL), dim=-1)
    torch.testing.assert_close(ours.encode_text(TEXTS), theirs_CD, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.encode_text(TEXTS[:1]), theirs_CD[:1], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.encode_text({"input_ids": full_CL}), theirs_CD, rtol=0, atol=1e-5)
    assert ours.encode_text(["cat " * 500]).isfinite().all()


# parameters and gradients --------------------------------------------------------------------------------------------


@needs_open_clip
@pytest.mark.parametrize("kind", ["clip", "clip projection with bias", "siglip"])
def test_every_parameter_belongs_to_one_tower(kind: str, tmp_path: Path) -> None:
    ours = load_model(f"local-dir:{write_model(tmp_path / 'oc', CONFIGS[kind])}")
    image, text = set(ours.image_parameters()), set(ours.text_parameters("full"))
    rest = {name for name, _ in ours.backbone.named_parameters()} - image - text
    assert image and text and not image & text
    assert rest <= {"logit_scale", "logit_bias"}
    projection = ours.text_parameters("projection")
    assert all("text_projection" in name for name in projection) and set(projection) < text
    ours.requires_grad_(True)
    image_out = ours.encode_image(torch.rand(2, 3, 16, 16))[:, 0].sum()
    text_out = ours.encode_text(TEXTS)[:, 0].sum()
    for output, other in ((image_out, ours.text_parameters()), (text_out, ours.image_parameters())):
        assert all(g is None for g in torch.autograd.grad(output, list(other.values()), allow_unused=True, retain_graph=True))
    grads = torch.autograd.grad(text_out, list(projection.values()))
    assert all(g.abs().sum() > 0 for g in grads)


@needs_open_clip
def test_gradients_reach_the_pixels_and_no_weight(model_folder: Path) -> None:
    classifier = ZeroShotClassifier(load_model(model_folder), NAMES)
    image_BCHW = torch.rand(2, 3, 16, 16, requires_grad=True)
    F.cross_entropy(classifier(image_BCHW), torch.tensor([0, 1])).backward()
    assert image_BCHW.grad is not None and image_BCHW.grad.abs().sum() > 0
    assert all(p.grad is None for p in classifier.parameters())
    with pytest.raises(ModelError, match="not 2 x 3 x 8 x 8"):
        classifier(torch.rand(2, 3, 8, 8))


@needs_open_clip
@torch.no_grad()
def test_a_captioner_is_its_two_towers_without_the_decoder(tmp_path: Path) -> None:
    pooling = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    decoder = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
    text = TEXT | {"context_length": 76, "embed_cls": True, "output_tokens": True}
    config = {"embed_dim": 24, "custom_text": True, "vision_cfg": VISION | pooling, "text_cfg": text, "multimodal_cfg": decoder}
    ours = load_model(f"local-dir:{write_model(tmp_path / 'oc', config)}")
    roots = {name.split(".")[0] for name in [*ours.image_parameters(), *ours.text_parameters()]}
    assert roots == {"visual", "text"} and any(name.startswith("text_decoder") for name, _ in ours.backbone.named_parameters())
    image_BCHW = torch.rand(2, 3, 16, 16)
    theirs_BD = ours.backbone.encode_image((image_BCHW - ours.mean_C11) / ours.std_C11)
    torch.testing.assert_close(ours.encode_image(image_BCHW), theirs_BD, rtol=0, atol=1e-5)
    assert (ours.encode_image(image_BCHW, normalize=False).norm(dim=-1) - 1).abs().min() > 1e-3


# folders -------------------------------------------------------------------------------------------------------------


@needs_open_clip
@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_save_and_load_give_equal_logits_here_and_in_the_library(kind: str, tmp_path: Path) -> None:
    import open_clip

    ours = load_model(f"local-dir:{write_model(tmp_path / 'oc', CONFIGS[kind], resize_mode='squash')}")
    for p in ours.image_parameters().values():
        p.add_(0.01)
    ours.save_pretrained(tmp_path / "saved")
    assert sorted(f.name for f in (tmp_path / "saved").iterdir()) == ["open_clip_config.json", "open_clip_model.safetensors"]
    image_BCHW = torch.rand(2, 3, 16, 16)
    expected = ZeroShotClassifier(ours, NAMES)(image_BCHW)
    again = load_model(tmp_path / "saved")
    torch.testing.assert_close(ZeroShotClassifier(again, NAMES)(image_BCHW), expected)
    assert isinstance(again, OpenClipEncoder) and again.preprocess["resize_mode"] == "squash"
    assert (again.name, again.embed_dim, again.image_size) == (str(tmp_path / "saved"), 24, 16)

    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'saved'}").eval()
    normalised = (image_BCHW - ours.mean_C11) / ours.std_C11
    text_CD = encode_classes(ours, NAMES)
    image_BD = theirs.encode_image(normalised, normalize=True)
    torch.testing.assert_close(ours.logits(image_BD, text_CD), expected)


@needs_open_clip
def test_a_run_with_an_open_clip_model_is_found(model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    model_folder.rename(run / "model")
    assert isinstance(load_model(run), OpenClipEncoder)


@needs_open_clip
def test_random_weights_only_when_asked_for() -> None:
    with pytest.raises(ModelError, match=r"names no weights, so they would be random.*openai.*,none"):
        load_model("open_clip:ViT-B-32-quickgelu")


@needs_open_clip
def test_a_built_in_architecture_with_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    tiny = CONFIGS["clip"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-for-tests", tiny)
    model = load_model("open_clip:tiny-for-tests,none")
    assert model.name == "open_clip:tiny-for-tests,none"
    assert model.mean_C11.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert model.encode_text(TEXTS).shape == (3, 24)


@needs_open_clip
def test_a_built_in_architecture_with_a_weights_file(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-for-tests", CONFIGS["clip"])
    model = load_model(f"open_clip:tiny-for-tests,{model_folder / 'open_clip_model.safetensors'}")
    twin = load_model(model_folder)
    torch.testing.assert_close(model.encode_text(TEXTS), twin.encode_text(TEXTS))


@needs_open_clip
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-33,openai", r"no architecture 'ViT-B-33'\. Close to it: .*ViT-B-32"),
        ("open_clip:", "no architecture ''"),
        ("open_clip:ViT-B-32-quickgelu,opnai", r"no weights 'opnai' for ViT-B-32-quickgelu.*Tags: .*openai"),
        ("open_clip:ViT-B-32,openai", r"trained with QuickGELU.*Use open_clip:ViT-B-32-quickgelu,openai"),
        ("open_clip:ViT-B-32-quickgelu,laion2b_s34b_b79k", r"no weights 'laion2b_s34b_b79k'"),
        ("local-dir:/nowhere/at/all", r"/nowhere/at/all is no open_clip model.*does not exist"),
    ],
)
def test_names_that_cannot_be_meant(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(name)


@needs_open_clip
@pytest.mark.parametrize("damage", ["config", "weights", "no weights", "other shape", "no file"])
def test_damaged_folders_are_named(model_folder: Path, damage: str) -> None:
    config, weights = model_folder / "open_clip_config.json", model_folder / "open_clip_model.safetensors"
    if damage == "config":
        config.write_text("{")
    elif damage == "weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no weights":
        weights.unlink()
    elif damage == "other shape":
        config.write_text(config.read_text().replace('"embed_dim": 24', '"embed_dim": 12'))
    else:
        config.unlink()
    with pytest.raises(ModelError) as caught:
        load_model(f"local-dir:{model_folder}")
    assert str(model_folder) in str(caught.value) and len(str(caught.value)) < 1000


# installation --------------------------------------------------------------------------------------------------------


class Broken(importlib.abc.MetaPathFinder):
    """An `open_clip` whose import fails with a given error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "open_clip":
            raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ModuleNotFoundError("No module named 'open_clip'", name="open_clip"),
            r"not installed.*pip install 'tima\[open-clip\]'",
        ),
        (ModuleNotFoundError("No module named 'ftfy'", name="ftfy"), r"'ftfy'.*pip install 'tima\[open-clip\]'"),
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision.*built for another torch.*pip install torch"),
    ],
)
def test_installations_that_do_not_work_are_explained(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    with pytest.raises(ModelError, match=message):
        load_model("open_clip:ViT-B-32-quickgelu,openai")


def test_open_clip_is_not_imported_before_it_is_needed() -> None:
    import subprocess

    code = "import sys, tima.models; print(sorted({'open_clip', 'timm', 'torchvision', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_open_clip
def test_the_library_is_handed_out() -> None:
    assert import_open_clip().__name__ == "open_clip"
