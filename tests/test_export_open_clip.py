"""open_clip folders: loaded by that library, equal to ours; and its models to transformers. Skipped without the extra."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip
from exported import make_run, tiny_siglip
from torch import Tensor

from tima.data import decode
from tima.data.in_memory import Encoded
from tima.errors import ModelError
from tima.export import export_model
from tima.export.clip_config import _ratio, _said, open_clip_config
from tima.models import ZeroShotClassifier, load_model
from tima.models.hugging_face import HuggingFaceEncoder
from tima.models.key_names import to_transformers

needs_open_clip = pytest.mark.skipif(
    importlib.util.find_spec("open_clip") is None, reason="the extra is not installed: pip install 'tima[open-clip]'"
)
NAMES = ["cat", "dog", "sailing boat"]
TEXTS = [f"a photo of a {name}." for name in NAMES]


def test_the_config_says_how_the_model_is_built(tokenizer: Any) -> None:
    config = open_clip_config(build_tiny_clip(tokenizer), own_tokenizer=True)
    assert config == {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "mlp_ratio": 2.0},
        "text_cfg": {
            "context_length": 77, "vocab_size": len(tokenizer), "width": 32, "heads": 2, "layers": 2, "mlp_ratio": 2.0,
            "hf_tokenizer_name": ".",
        },
    }  # fmt: skip
    assert open_clip_config(build_tiny_clip(tokenizer, hidden_act="gelu"), own_tokenizer=False)["quick_gelu"] is False


def test_what_open_clip_cannot_build_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"is a SiglipModel.*export this one as hf"):
        open_clip_config(tiny_siglip(tokenizer), own_tokenizer=True)
    mixed = build_tiny_clip(tokenizer)
    mixed.backbone.config.text_config.hidden_act = "gelu"
    with pytest.raises(ModelError, match="activations gelu, quick_gelu"):
        open_clip_config(mixed, own_tokenizer=True)


def test_the_end_of_text_is_named_where_it_is_not_the_highest_id(tokenizer: Any) -> None:
    model = build_tiny_clip(tokenizer)
    model.backbone.config.text_config.eos_token_id = 5
    text = open_clip_config(model, own_tokenizer=False)["text_cfg"]
    assert (text["pool_type"], text["eos_id"]) == ("eos", 5) and "hf_tokenizer_name" not in text
    model.backbone.config.text_config.layer_norm_eps = 1e-6
    assert open_clip_config(model, own_tokenizer=False)["text_cfg"]["norm_kwargs"] == {"eps": 1e-6}


def test_widths_survive_the_ratio() -> None:
    pairs = [(inner, width) for width in range(64, 1700, 16) for inner in (4 * width, 4304, 6144, width * 3 + 7)]
    assert all(int(width * _ratio(inner, width)) == inner for inner, width in pairs)
    assert any(int(width * (inner / width)) != inner for inner, width in pairs)  # which is why


def test_keys_that_make_another_tower_are_noticed() -> None:
    known = {"width", "patch_size"}
    assert _said({"width": 3, "patch_size": 8, "pool_type": "tok", "no_ln_pre": False, "ls_init_value": None}, known) == []
    assert _said({"width": 3, "patch_size": 8, "pool_type": "avg", "no_ln_pre": True}, known) == ["pool_type", "no_ln_pre"]


def test_custom_text_towers_have_the_same_names_behind_a_prefix() -> None:
    from tima.models.key_names import to_openai

    weights: dict[str, Tensor] = {
        "text.text_projection": torch.rand(3, 2),
        "text.transformer.resblocks.1.ln_1.bias": torch.rand(3),
    }
    found = to_transformers(weights)
    torch.testing.assert_close(found["text_projection.weight"], weights["text.text_projection"].T)
    assert set(to_openai(found)) == {"text_projection", "transformer.resblocks.1.ln_1.bias"}


# with the library -------------------------------------------------------------------------------------------------


def answers(folder: Path, photos: list[Any]) -> Tensor:
    """Logits as an open_clip user gets them."""
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    model.eval()
    with torch.no_grad():
        image = model.encode_image(torch.stack([preprocess(photo) for photo in photos]), normalize=True)
        text = model.encode_text(tokenizer(TEXTS), normalize=True)
        return model.logit_scale.exp() * image @ text.T


def our_answers(model: Any, photos: list[Any]) -> Tensor:
    pixels = torch.stack([decode(Encoded(photos)(i), model.image_size) for i in range(len(photos))]).float() / 255
    with torch.no_grad():
        return ZeroShotClassifier(model, NAMES)(pixels)


@needs_open_clip
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_open_clip_answers_as_we_do(tokenizer: Any, tmp_path: Path, act: str) -> None:
    from test_export import picture

    model = build_tiny_clip(tokenizer, hidden_act=act)
    folder = export_model(model, "open_clip", tmp_path / "out")
    photos = [picture(32, 64), picture(48, 16, 1), picture(16, 16, 2)]
    wanted = our_answers(model, photos)
    torch.testing.assert_close(answers(folder, photos), wanted, atol=1e-5, rtol=1e-5)
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    assert config["model_cfg"]["quick_gelu"] == (act == "quick_gelu")
    config["model_cfg"]["quick_gelu"] ^= True  # the flag matters: the other one is another model
    file.write_text(json.dumps(config))
    assert (answers(folder, photos) - wanted).abs().max() > 1e-3


@needs_open_clip
def test_there_and_back_are_the_same_weights(tokenizer: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "run", tokenizer)
    there = export_model(tmp_path / "run", "open_clip", tmp_path / "oc")
    assert "library_name: open_clip" in (there / "README.md").read_text()
    back = export_model(there, ["hf", "open_clip", "llava"], tmp_path / "back")
    ours, again = load_model(tmp_path / "run"), load_model(back / "hf")
    assert isinstance(again, HuggingFaceEncoder)
    own, returned = ours.backbone.state_dict(), again.backbone.state_dict()
    assert set(own) == set(returned) and all(torch.equal(own[name], returned[name]) for name in own)


@needs_open_clip
def test_openais_tokenizer_needs_no_files(tmp_path: Path) -> None:
    from test_export import picture
    from test_open_clip import CONFIGS, write_model

    source = load_model(write_model(tmp_path / "oc", CONFIGS["clip"]))
    as_hf = export_model(source, "hf", tmp_path / "hf")
    back = export_model(as_hf, "open_clip", tmp_path / "back")
    assert not (back / "tokenizer.json").exists()
    assert "hf_tokenizer_name" not in json.loads((back / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    photos = [picture(32, 64), picture(16, 16, 2)]
    torch.testing.assert_close(answers(back, photos), our_answers(source, photos), atol=1e-5, rtol=1e-5)


@needs_open_clip
@pytest.mark.parametrize("kind", ["clip eos", "custom text"])
def test_other_ways_to_write_the_same_build_become_a_clip_model(tmp_path: Path, kind: str) -> None:
    from test_export import picture
    from test_open_clip import CONFIGS, write_model

    source = load_model(write_model(tmp_path / "oc", CONFIGS[kind]))
    loaded = load_model(export_model(source, "hf", tmp_path / "hf"))
    photos = [picture(32, 64), picture(16, 16, 2)]
    assert type(loaded.backbone).__name__ == "CLIPModel"
    torch.testing.assert_close(our_answers(loaded, photos), our_answers(source, photos), atol=1e-5, rtol=1e-5)


@needs_open_clip
@pytest.mark.parametrize(("kind", "why"), [("clip both ways", "text_cfg.no_causal_mask"), ("siglip", "a bias of the logits")])
def test_other_builds_are_refused_as_hf_and_leave_as_open_clip(tmp_path: Path, kind: str, why: str) -> None:
    from test_open_clip import CONFIGS, write_model

    source = load_model(write_model(tmp_path / "oc", CONFIGS[kind], resize_mode="squash"))
    with pytest.raises(ModelError, match=f"built otherwise than OpenAI's CLIP.*{why}"):
        export_model(source, "hf", tmp_path / "hf")
    folder = export_model(source, "open_clip", tmp_path / "out")  # its check compares the logits
    # resized as tima did when it measured, and not as the original
    assert json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]["resize_mode"] == "shortest"
