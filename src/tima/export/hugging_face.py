"""A transformers folder: `from_pretrained`, the processor and the zero-shot pipeline load it.

Shapes: `B` images, `C` classes or channels, `D` embedding width, `H, W` pixels.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tima.errors import ExportError, ModelError
from tima.export.clip_config import clip_config, openai_tokenizer
from tima.export.expressible import check_plain
from tima.export.probe import TOLERANCE, Probe, compare, normalised
from tima.models import DualEncoder
from tima.models.hugging_face import FAMILIES, HuggingFaceEncoder
from tima.models.hugging_face_files import no_bar
from tima.models.key_names import to_transformers
from tima.models.open_clip import OpenClipEncoder

if TYPE_CHECKING:
    from tima.export.targets import Classes

NO_PIPELINE = "vision-text-dual-encoder"  # transformers' pipeline knows no such model


def write(model: DualEncoder, folder: Path, classes: "Classes | None" = None) -> None:
    """Config, safetensors, tokenizer, image preprocessing.

    Raises:
        ModelError: an open_clip model of another build than OpenAI's CLIP, or parts that the format has no place for.
    """
    check_plain(model, "hf")
    encoder = as_hugging_face(model)
    with no_bar():
        encoder.save_pretrained(folder)
    if encoder.backbone.config.model_type == "siglip":
        _without_mask(folder / "tokenizer_config.json")


def _without_mask(file: Path) -> None:
    """SigLIP's texts see their padding: with a tokenizer that also gave a mask, the pipeline would answer otherwise."""
    config = json.loads(file.read_text(encoding="utf-8")) | {"model_input_names": ["input_ids"]}
    file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def as_hugging_face(model: DualEncoder) -> HuggingFaceEncoder:
    """The model itself, or an open_clip CLIP put into `CLIPModel`: the same numbers under other names."""
    if isinstance(model, HuggingFaceEncoder):
        return model
    if not isinstance(model, OpenClipEncoder):
        raise ModelError(f"'{model.name}' is a {type(model).__name__}; only Hugging Face and open_clip models can be exported.")
    import transformers

    tokenizer = openai_tokenizer(model)
    backbone = transformers.CLIPModel(clip_config(model, tokenizer))
    weights = to_transformers({name: value.detach().cpu().float() for name, value in model.backbone.state_dict().items()})
    backbone.load_state_dict(weights)
    mean, std = model.mean_C11.flatten().tolist(), model.std_C11.flatten().tolist()
    return HuggingFaceEncoder(backbone, tokenizer, mean=mean, std=std, name=model.name).requires_grad_(False)


def check(model: DualEncoder, folder: Path, probe: Probe, classes: "Classes | None" = None) -> dict[str, float]:
    """Load the folder as a user would and compare pixels, logits and the pipeline's answers."""
    import transformers

    kind = str(transformers.AutoConfig.from_pretrained(folder).model_type)
    with no_bar():
        loaded, report = getattr(transformers, FAMILIES[kind][0]).from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if left := [*report["missing_keys"], *report["unexpected_keys"]]:
        raise ExportError(f"The folder's weights do not fit its config: {len(left)} names differ, first {sorted(left)[0]}.")
    loaded.eval()
    images = pil_image_processor(folder)
    found = {
        "pixels": compare(
            "The preprocessed pixels",
            images(images=probe.pictures, return_tensors="pt")["pixel_values"],
            normalised(model, probe.pixel_BCHW),
            TOLERANCE,
        )
    }
    padding: dict[str, Any] = {"padding": True}
    if kind == "siglip":
        padding = {"padding": "max_length", "max_length": 64, "truncation": True}
    tokens = tokenizer(probe.texts, return_tensors="pt", **padding)
    pixel_BCHW = images(images=probe.pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits_BC = loaded(pixel_values=pixel_BCHW, **tokens).logits_per_image
    found["logits"] = compare("The logits", logits_BC, probe.logits_BC, probe.logits_tolerance)
    if kind != NO_PIPELINE:
        found["pipeline"] = _check_pipeline(folder, probe, sigmoid=kind == "siglip")
    return found


def pil_image_processor(folder: Path) -> Any:
    """The folder's image processor on PIL, whose resizing ours is. torchvision's, where it is installed, rounds otherwise."""
    import transformers

    choice: dict[str, Any] = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
    return transformers.AutoImageProcessor.from_pretrained(folder, **choice)


def _check_pipeline(folder: Path, probe: Probe, *, sigmoid: bool) -> float:
    """The scores of the pipeline, loaded by nothing but the folder's name, on the picture that needs no resizing."""
    import transformers

    with no_bar():
        pipeline = transformers.pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    answers = pipeline(
        probe.pictures[0], candidate_labels=probe.class_names, hypothesis_template=probe.template.replace("{c}", "{}")
    )
    scores = {answer["label"]: answer["score"] for answer in answers}
    logits_C = probe.logits_BC[0]
    wanted_C = logits_C.sigmoid() if sigmoid else logits_C.softmax(-1)
    found_C = torch.tensor([scores[name] for name in probe.class_names])
    return compare("The pipeline's scores", found_C, wanted_C, TOLERANCE)


def usage(model: DualEncoder, classes: "Classes | None" = None) -> str:
    if isinstance(model, HuggingFaceEncoder) and model.backbone.config.model_type == NO_PIPELINE:
        return (
            "from transformers import AutoProcessor, VisionTextDualEncoderModel\n\n"
            'model = VisionTextDualEncoderModel.from_pretrained("{folder}")\n'
            'processor = AutoProcessor.from_pretrained("{folder}")'
        )
    return (
        "from transformers import pipeline\n\n"
        'classify = pipeline("zero-shot-image-classification", model="{folder}")\n'
        'print(classify("photo.jpg", candidate_labels=["cat", "dog"], hypothesis_template="a photo of a {}."))'
    )
