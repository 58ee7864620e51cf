"""Published checkpoints: names convert exactly in both directions, every layout is read, and what does not fit is refused."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import build_tiny_clip
from torch import Tensor

from tima.errors import ModelError
from tima.models import load_model
from tima.models.hugging_face import HuggingFaceEncoder
from tima.models.key_names import to_openai, to_transformers
from tima.models.published import read_published


def openai_image_tower(weights: dict[str, Tensor], pixels: Tensor, heads: int) -> Tensor:
    """OpenAI's vision transformer from its published weights, written out: QuickGELU, pre-norm, class token, `@ proj`."""
    hidden = F.conv2d(pixels, weights["visual.conv1.weight"], stride=weights["visual.conv1.weight"].shape[-1])
    hidden = hidden.flatten(2).transpose(1, 2)
    first = weights["visual.class_embedding"].expand(len(pixels), 1, -1)
    hidden = torch.cat([first, hidden], 1) + weights["visual.positional_embedding"]
    width = hidden.shape[-1]

    def norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    hidden = norm("visual.ln_pre", hidden)
    layers = 1 + max(int(n.split(".")[3]) for n in weights if n.startswith("visual.transformer.resblocks."))
    for i in range(layers):
        block = f"visual.transformer.resblocks.{i}"
        x = norm(f"{block}.ln_1", hidden).transpose(0, 1)
        attended, _ = F.multi_head_attention_forward(
            x, x, x, width, heads, weights[f"{block}.attn.in_proj_weight"], weights[f"{block}.attn.in_proj_bias"],
            None, None, False, 0.0, weights[f"{block}.attn.out_proj.weight"], weights[f"{block}.attn.out_proj.bias"],
            training=False, need_weights=False,
        )  # fmt: skip
        hidden = hidden + attended.transpose(0, 1)
        x = F.linear(norm(f"{block}.ln_2", hidden), weights[f"{block}.mlp.c_fc.weight"], weights[f"{block}.mlp.c_fc.bias"])
        x = x * torch.sigmoid(1.702 * x)
        hidden = hidden + F.linear(x, weights[f"{block}.mlp.c_proj.weight"], weights[f"{block}.mlp.c_proj.bias"])
    return norm("visual.ln_post", hidden[:, 0]) @ weights["visual.proj"]


def state(model: HuggingFaceEncoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.backbone.state_dict().items() if not name.endswith("position_ids")}


def test_a_round_trip_is_the_identity(tiny_clip: HuggingFaceEncoder) -> None:
    own = state(tiny_clip)
    openai = to_openai(own)
    assert len(openai) < len(own) and not any(n.startswith(("vision_model", "text_model")) for n in openai)
    back = to_transformers(openai)
    assert set(back) == set(own) and all(torch.equal(back[n], own[n]) for n in own)
    again = to_openai(back)
    assert set(again) == set(openai) and all(torch.equal(again[n], openai[n]) for n in openai)


def test_the_converted_weights_are_openais_network(tiny_clip: HuggingFaceEncoder) -> None:
    pixels = torch.randn(3, 3, 16, 16)
    found = openai_image_tower(to_openai(state(tiny_clip)), pixels, heads=2)
    torch.testing.assert_close(found, tiny_clip._image_features(pixels), atol=1e-5, rtol=1e-5)


@pytest.fixture
def base(tokenizer: Any, tmp_path: Path) -> Path:
    build_tiny_clip(tokenizer, seed=1).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def image_tower(openai: dict[str, Tensor]) -> "OrderedDict[str, Tensor]":
    return OrderedDict((n.removeprefix("visual."), v) for n, v in openai.items() if n.startswith("visual."))


LAYOUTS = {
    "tecoa": lambda o: {"epoch": 9, "best_acc1": 0.4, "state_dict": {}, "vision_encoder_state_dict": image_tower(o)},
    "data parallel": lambda o: {"vision_encoder_state_dict": {f"module.{n}": v for n, v in image_tower(o).items()}},
    "fare": image_tower,
    "fare, half": lambda o: {n: v.half() for n, v in image_tower(o).items()},
    "whole open_clip model": lambda o: {f"module.{n}": v for n, v in o.items()},
    "whole model of older transformers": lambda o: {
        **to_transformers(o),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    },
    "advflyp": lambda o: {"partial_state_dict": {n: v for n, v in o.items() if n.startswith("visual.")}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_published_layout_is_read(tiny_clip: HuggingFaceEncoder, base: Path, tmp_path: Path, layout: str) -> None:
    openai = to_openai(state(tiny_clip))
    torch.save(LAYOUTS[layout](openai), tmp_path / "robust.pt")
    found, original = load_model(f"checkpoint:{tmp_path / 'robust.pt'},{base}"), load_model(base)
    pixels = torch.rand(3, 3, 16, 16)
    tolerance = 1e-2 if "half" in layout else 1e-5
    torch.testing.assert_close(found.encode_image(pixels), tiny_clip.encode_image(pixels), atol=tolerance, rtol=0)
    assert float((found.encode_image(pixels) - original.encode_image(pixels)).detach().abs().max()) > 0.05, "it did change"
    texts = tiny_clip if "whole" in layout else original
    torch.testing.assert_close(found.encode_text(["cat", "dog"]), texts.encode_text(["cat", "dog"]), atol=1e-5, rtol=0)
    assert not any(p.requires_grad for p in found.parameters())


def test_what_does_not_fit_is_refused(tiny_clip: HuggingFaceEncoder, base: Path, tokenizer: Any, tmp_path: Path) -> None:
    file = tmp_path / "robust.pt"
    with pytest.raises(ModelError, match="does not exist"):
        load_model(f"checkpoint:{file},{base}")
    with pytest.raises(ModelError, match="names no base model"):
        load_model(f"checkpoint:{file}")
    torch.save(image_tower(to_openai(state(build_tiny_clip(tokenizer, image_size=32)))), file)
    with pytest.raises(ModelError, match=r"does not fit.*1 of .*position_embedding.*another architecture"):
        load_model(f"checkpoint:{file},{base}")
    torch.save({"epoch": 3, "optimizer": {"lr": 1.0}}, file)
    with pytest.raises(ModelError, match=r"holds no weights.*epoch, optimizer"):
        read_published(file)
    torch.save({"vision_encoder_state_dict": {"conv1.weight": torch.zeros(2), "strange.weight": torch.zeros(2)}}, file)
    with pytest.raises(ModelError, match=r"visual\.strange\.weight"):
        load_model(f"checkpoint:{file},{base}")
    torch.save({1: torch.zeros(2)}, file)
    with pytest.raises(ModelError, match="holds no weights"):
        read_published(file)
    with pytest.raises(ModelError, match="is no parameter"):  # not a stack of query, key and value
        to_transformers({"visual.transformer.resblocks.0.attn.in_proj_weight": torch.zeros(4, 2)})


class Payload:
    """What a hostile pickle would do."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("__import__('pathlib').Path('ran').touch()",))


def test_no_code_in_a_checkpoint_runs(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "hostile.pt")
    with pytest.raises(ModelError, match="without running code"):
        load_model(f"checkpoint:{tmp_path / 'hostile.pt'},{base}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(base: Path, tmp_path: Path, value: float) -> None:
    """They loaded without a word, and every picture was class 0."""
    model = load_model(base)
    weight = model.backbone.get_parameter("visual_projection.weight")
    with torch.no_grad():
        weight[2, :3] = value
    says = rf"visual_projection\.weight holds 3 NaN or infinite of {weight.numel()} values"
    model.save_pretrained(tmp_path / "spoilt")
    with pytest.raises(ModelError, match=f"spoilt': {says}"):
        load_model(tmp_path / "spoilt")
    torch.save({"vision_encoder_state_dict": image_tower(to_openai(state(model)))}, tmp_path / "spoilt.pt")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=rf"spoilt\.pt': {says}"):
        load_model(f"checkpoint:{tmp_path / 'spoilt.pt'},{base}")
    with torch.no_grad():
        model.backbone.get_parameter("text_projection.weight")[0, 0] = value
    model.save_pretrained(tmp_path / "twice")
    with pytest.raises(ModelError, match="and 1 more tensors are like it"):
        load_model(tmp_path / "twice")
