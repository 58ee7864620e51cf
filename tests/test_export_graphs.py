"""ONNX and torch.export: other batch sizes, other texts, a frame on the pixels, fixed classes; all against our own answers."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_clip
from exported import tiny_siglip
from versions import exports_any_length

from tima.errors import ExportError, ModelError
from tima.export import TARGETS, export_model
from tima.export.probe import make_probe
from tima.models import ZeroShotClassifier
from tima.models.hugging_face import HuggingFaceEncoder
from tima.models.visual_prompt import PaddingPrompt

NAMES = ["cat", "dog", "small tree"]
TEMPLATES = ["a photo of a {c}.", "a {c}."]
TEXTS = ["a cat", "a photo of the small dog and a sailing boat, with a red apple and a guitar.", "tree", "dog"]
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="the extra is not installed: pip install 'tima[onnx]'",
)


@pytest.fixture(scope="module")
def prompted(tokenizer: Any) -> HuggingFaceEncoder:
    """A tiny CLIP behind a visible frame: a graph that left the frame out would answer otherwise."""
    model = build_tiny_clip(tokenizer)
    model.prompt = PaddingPrompt(2, 16).requires_grad_(False)
    with torch.no_grad():
        model.prompt.value_K.normal_(0, 1)
    return model


@exports_any_length
def test_programs_run_with_torch_alone(prompted: HuggingFaceEncoder, tmp_path: Path) -> None:
    folder = export_model(prompted, "torch-export", tmp_path / "out", class_names=NAMES, templates=TEMPLATES)
    pixels = torch.rand(5, 3, 16, 16)
    programs = {
        name: torch.export.load(folder / f"{name}.pt2").module() for name in ("image_encoder", "text_encoder", "classifier")
    }
    tokens = prompted.tokenize(TEXTS)
    with torch.no_grad():
        wanted = ZeroShotClassifier(prompted, NAMES, TEMPLATES)(pixels)
        torch.testing.assert_close(programs["classifier"](pixels=pixels), wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(programs["image_encoder"](pixels=pixels), prompted.encode_image(pixels), atol=1e-5, rtol=0)
        torch.testing.assert_close(programs["text_encoder"](**tokens), prompted.encode_text(TEXTS), atol=1e-5, rtol=0)
        bare = build_tiny_clip(prompted.tokenizer)
        assert (bare.encode_image(pixels) - prompted.encode_image(pixels)).abs().max() > 0.01  # the frame is in it
    facts = json.loads((folder / "graphs.json").read_text())
    assert facts["classes"] == NAMES and facts["templates"] == TEMPLATES and facts["image_size"] == 16
    assert facts["logit_scale"] == pytest.approx(20.0855, abs=1e-3) and facts["logit_bias"] == 0
    assert (folder / "tokenizer.json").is_file() and "classifier.pt2" in (folder / "README.md").read_text()


def test_a_program_that_differs_is_caught(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.new_ones(pixels.shape[0], 24)

    program = torch.export.export(
        Doubled(), (), {"pixels": torch.rand(2, 3, 16, 16)}, dynamic_shapes={"pixels": {0: torch.export.Dim("n")}}
    )
    torch.export.save(program, tmp_path / "image_encoder.pt2")
    with pytest.raises(ExportError, match="The image embeddings of 1 differ from ours"):
        TARGETS["torch-export"].check(tiny_clip, tmp_path, make_probe(tiny_clip), None)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip with a frame", "siglip"])
def test_onnxruntime_answers_as_we_do(prompted: HuggingFaceEncoder, tokenizer: Any, tmp_path: Path, kind: str) -> None:
    import onnxruntime

    model = tiny_siglip(tokenizer) if kind == "siglip" else prompted
    folder = export_model(model, "onnx", tmp_path / "out", class_names=NAMES, templates=TEMPLATES)

    def run(name: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        assert {i.name for i in session.get_inputs()} == set(inputs)
        return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])

    with torch.no_grad():
        for n in (1, 7):
            pixels = torch.rand(n, 3, 16, 16)
            wanted = ZeroShotClassifier(model, NAMES, TEMPLATES)(pixels)
            torch.testing.assert_close(run("classifier", {"pixels": pixels}), wanted, atol=1e-4, rtol=0)
            torch.testing.assert_close(run("image_encoder", {"pixels": pixels}), model.encode_image(pixels), atol=1e-5, rtol=0)
        for texts in (TEXTS, TEXTS[:1]):
            found = run("text_encoder", model.tokenize(texts))
            torch.testing.assert_close(found, model.encode_text(texts), atol=1e-5, rtol=0)
    facts = json.loads((folder / "graphs.json").read_text())
    assert facts["logit_bias"] == (-3 if kind == "siglip" else 0)


def test_without_the_extra_the_error_names_it(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'tima\[onnx\]'"):
        export_model(tiny_clip, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
