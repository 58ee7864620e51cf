"""An open_clip folder: `create_model_and_transforms("local-dir:FOLDER")` and `get_tokenizer` load it.

`open_clip_config.json` says how the model is built (`quick_gelu` too), the safetensors hold it under open_clip's names.
Tokenizers: open_clip's own is OpenAI's, for a vocabulary of 49,408. Where the model's is that one, the folder names no other;
where it is not, its files lie in the folder and the config says so (`hf_tokenizer_name`).

Shapes: `B` images, `C` classes or channels, `D` embedding width, `H, W` pixels.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tima.errors import ModelError
from tima.export.clip_config import OPENAI_VOCABULARY, open_clip_config, open_clip_preprocess
from tima.export.expressible import check_plain
from tima.export.probe import TOLERANCE, Probe, compare, even_overhang, normalised
from tima.models import DualEncoder
from tima.models.hugging_face import HuggingFaceEncoder
from tima.models.key_names import to_openai
from tima.models.open_clip import CONFIG_FILE, WEIGHTS_FILE, OpenClipEncoder, import_open_clip

if TYPE_CHECKING:
    from tima.export.targets import Classes

# texts that tell tokenizers apart: case, digits, signs, an accent, a word of no vocabulary
TEXTS = ("A Photo of 2 cats, isn't it?", "naïve café", "zyxwvut rqponml", "sailing-boat (red)")


def write(model: DualEncoder, folder: Path, classes: "Classes | None" = None) -> None:
    """Config, safetensors and, where it is not open_clip's own, the tokenizer.

    Raises:
        ModelError: open_clip is not installed or cannot build the model.
    """
    check_plain(model, "open_clip")
    library = import_open_clip()
    if isinstance(model, OpenClipEncoder):
        model.save_pretrained(folder)
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        _write_config(folder, config["model_cfg"], open_clip_preprocess(model))
        return
    if not isinstance(model, HuggingFaceEncoder):
        raise ModelError(f"'{model.name}' is a {type(model).__name__}; only Hugging Face and open_clip models can be exported.")
    from safetensors.torch import save_file

    own = not _is_openai_tokenizer(library, model)
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(folder, open_clip_config(model, own), open_clip_preprocess(model))
    weights = to_openai({name: value.detach().cpu() for name, value in model.backbone.state_dict().items()})
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, folder / WEIGHTS_FILE, {"format": "pt"})
    if own:
        model.tokenizer.save_pretrained(folder)


def _write_config(folder: Path, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> None:
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _is_openai_tokenizer(library: Any, model: HuggingFaceEncoder) -> bool:
    """Whether open_clip's own tokenizer gives the same tokens, up to the padding behind the end of the text."""
    if len(model.tokenizer) != OPENAI_VOCABULARY:
        return False
    theirs_CL = library.tokenizer.SimpleTokenizer(context_length=model.context_length)(list(TEXTS))
    for ours, theirs_L in zip(model.tokenizer(list(TEXTS))["input_ids"], theirs_CL.tolist(), strict=True):
        if theirs_L[: len(ours)] != ours:
            return False
    return True


def check(model: DualEncoder, folder: Path, probe: Probe, classes: "Classes | None" = None) -> dict[str, float]:
    """Load the folder as a user would; compare pixels, embeddings and logits.

    Pictures that cannot be cropped evenly are left out of the comparison: torchvision rounds half a pixel to the even side,
    we and transformers down.
    """
    library = import_open_clip()
    name = f"local-dir:{folder}"
    loaded, _, preprocess = library.create_model_and_transforms(name)
    tokenizer = library.get_tokenizer(name)
    loaded.eval()
    keep = [i for i, picture in enumerate(probe.pictures) if even_overhang(picture, model.image_size)]
    pixel_BCHW = torch.stack([preprocess(probe.pictures[i]) for i in keep])
    found = {"pixels": compare("The preprocessed pixels", pixel_BCHW, normalised(model, probe.pixel_BCHW[keep]), TOLERANCE)}
    with torch.no_grad():
        image_BD = loaded.encode_image(pixel_BCHW, normalize=True)
        text_CD = loaded.encode_text(tokenizer(probe.texts), normalize=True)
        logits_BC = loaded.logit_scale.exp() * image_BD @ text_CD.T
        if getattr(loaded, "logit_bias", None) is not None:
            logits_BC = logits_BC + loaded.logit_bias
    found["image embeddings"] = compare("The image embeddings", image_BD, probe.image_BD[keep], TOLERANCE)
    found["text embeddings"] = compare("The text embeddings", text_CD, probe.text_CD, TOLERANCE)
    found["logits"] = compare("The logits", logits_BC, probe.logits_BC[keep], probe.logits_tolerance)
    return found


def usage(model: DualEncoder, classes: "Classes | None" = None) -> str:
    return (
        "import open_clip\n\n"
        'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")\n'
        'tokenizer = open_clip.get_tokenizer("local-dir:{folder}")'
    )
