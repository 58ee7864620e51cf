"""What ONNX and torch.export record: image encoder, text encoder, and a classifier for fixed classes.

Pixels go in as float in [0, 1] and the normalisation is inside, as everywhere in tima: a graph that is fed pictures normalised
elsewhere, or not at all, answers without a complaint and wrongly. Whatever else the model does to the pixels is inside too.
Shapes: `B` images, `C` texts or classes, `D` embedding width, `L` tokens, `H, W` pixels.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from tima.export.probe import TOLERANCE, Probe, compare
from tima.models import DualEncoder, ZeroShotClassifier
from tima.models.hugging_face import HuggingFaceEncoder

if TYPE_CHECKING:
    from tima.export.targets import Classes


class ImageGraph(nn.Module):
    """Pixels in [0, 1] to unit-norm embeddings `B x D`."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)


class ClassifierGraph(nn.Module):
    """Pixels in [0, 1] to logits `B x C` of fixed classes, whose texts are encoded once and kept in the graph."""

    def __init__(self, model: DualEncoder, classes: "Classes") -> None:
        super().__init__()
        self.classifier = ZeroShotClassifier(model, classes.names, classes.templates)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(pixels)


class TextGraph(nn.Module):
    """Tokens to unit-norm embeddings `C x D`."""

    def __init__(self, model: DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        tokens = {"input_ids": input_ids}
        if attention_mask is not None:
            tokens["attention_mask"] = attention_mask
        return self.model.encode_text(tokens)


@dataclass(frozen=True)
class Graph:
    """One graph to record.

    Attributes:
        name: of its file.
        module: what is recorded.
        inputs: example inputs by name.
        output: the name of what comes out.
        dynamic: free axes of each input, by its name.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    output: str
    dynamic: dict[str, dict[int, Dim]]


def graphs(model: DualEncoder, classes: "Classes | None") -> list[Graph]:
    """Image and text encoder and, where class names are given, the classifier. Batches are free; so is the texts' length where
    the model lets it be."""
    S = model.image_size
    device = model.mean_C11.device
    pixels = torch.rand(2, len(model.mean_C11), S, S, generator=torch.Generator().manual_seed(0)).to(device)
    free = {"pixels": {0: Dim("images", min=1)}}
    tokens = model_tokens(model, ["a cat", "a photo of a small dog"])
    axes: dict[int, Dim] = {0: Dim("texts", min=1)}
    if can_shorten(model):
        axes[1] = Dim("tokens", min=2, max=_context_length(model))
    made = [
        Graph("image_encoder", ImageGraph(model), {"pixels": pixels}, "image_embeds", free),
        Graph("text_encoder", TextGraph(model), tokens, "text_embeds", {name: dict(axes) for name in tokens}),
    ]
    if classes is not None:
        made.append(Graph("classifier", ClassifierGraph(model, classes), {"pixels": pixels}, "logits", free))
    return made


def can_shorten(model: DualEncoder) -> bool:
    """Whether texts may be shorter than the context: CLIP's text tower does not see what follows the end of the text."""
    return isinstance(model, HuggingFaceEncoder) and model.backbone.config.model_type != "siglip"


def model_tokens(model: DualEncoder, texts: list[str]) -> dict[str, Tensor]:
    """Tokens as the graph takes them. Towers of open_clip take the full length."""
    if isinstance(model, HuggingFaceEncoder):
        return {name: value.to(model.mean_C11.device) for name, value in model.tokenize(texts).items()}
    tokenizer: Any = model.tokenizer
    return {"input_ids": tokenizer(texts).to(model.mean_C11.device)}


def _context_length(model: DualEncoder) -> int:
    holder: Any = model if isinstance(model, HuggingFaceEncoder) else model.tokenizer
    return int(holder.context_length)


@contextmanager
def plain_attention(model: DualEncoder) -> Iterator[None]:
    """Attention as matrix products, which every runtime has; the fused one is a single operator that few have."""
    before = model.use_attention("eager")
    try:
        yield
    finally:
        model.use_attention(before)


def write_facts(model: DualEncoder, folder: Path, classes: "Classes | None") -> None:
    """`graphs.json`: what a program in another language must know; and the tokenizer's files, where it has any."""
    bias = model.logit_bias
    facts: dict[str, Any] = {
        "pixels": "float32, B x 3 x S x S, RGB in [0, 1], not normalised: mean and standard deviation are inside the graphs",
        "image_size": model.image_size,
        "resize": "bicubic with antialiasing, short side to image_size, centre crop",
        "embed_dim": model.embed_dim,
        "logits": "logit_scale * image_embeds @ text_embeds.T + logit_bias",
        "logit_scale": float(model.logit_scale.detach()),
        "logit_bias": 0.0 if bias is None else float(bias.detach()),
        "tokens": "padded to the longest text" if can_shorten(model) else "padded to the full length",
        "context_length": _context_length(model),
    }
    if classes is not None:
        facts["classes"] = list(classes.names)
        facts["templates"] = list(classes.templates)
    (folder / "graphs.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tokenizer: Any = getattr(model, "tokenizer", None)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)


def check_graphs(
    model: DualEncoder, probe: Probe, classes: "Classes | None", run: Callable[[str, dict[str, Tensor]], Tensor]
) -> dict[str, float]:
    """Compare what `run(graph name, inputs)` gives with ours, with other batch sizes than the graphs were recorded with."""
    found: dict[str, float] = {}
    for n in (1, len(probe.pixel_BCHW)):
        image_BD = run("image_encoder", {"pixels": probe.pixel_BCHW[:n]})
        worst = compare(f"The image embeddings of {n}", image_BD, probe.image_BD[:n], TOLERANCE)
        found["image embeddings"] = max(worst, found.get("image embeddings", 0.0))
    for n in (1, len(probe.texts)):
        text_CD = run("text_encoder", {k: v.cpu() for k, v in model_tokens(model, probe.texts[:n]).items()})
        worst = compare(f"The text embeddings of {n}", text_CD, probe.text_CD[:n], TOLERANCE)
        found["text embeddings"] = max(worst, found.get("text embeddings", 0.0))
    if classes is not None:
        ours = ZeroShotClassifier(model, classes.names, classes.templates)
        with torch.no_grad():
            wanted_BC = ours(probe.pixel_BCHW.to(model.mean_C11.device)).cpu()
        found_BC = run("classifier", {"pixels": probe.pixel_BCHW})
        found["logits"] = compare("The classifier's logits", found_BC, wanted_BC, probe.logits_tolerance)
    return found
