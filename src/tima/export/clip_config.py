"""CLIP's build in the words of open_clip and of transformers, and what one of the two cannot say.

Only OpenAI's CLIP with a vision transformer exists in both. Everything else (SigLIP on timm's towers, CoCa, ResNets, text
towers of other libraries) is refused by name: converted half, it would load and answer wrongly.
"""

import gzip
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tima.errors import ModelError

if TYPE_CHECKING:
    from tima.models.dual_encoder import DualEncoder
    from tima.models.hugging_face import HuggingFaceEncoder
    from tima.models.open_clip import OpenClipEncoder

ACTIVATIONS = {"quick_gelu": True, "gelu": False}  # transformers' name -> open_clip's quick_gelu
OPENAI_VOCABULARY, OPENAI_MERGES = 49408, 48894
START, END = "<|startoftext|>", "<|endoftext|>"
# what open_clip may say of a tower that OpenAI's CLIP is built as anyway
VISION_KEYS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "patch_dropout", "norm_kwargs"}
TEXT_KEYS = {
    "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pool_type", "eos_id", "pad_id", "norm_kwargs",
    "hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode",
}  # fmt: skip
CUSTOM = "OpenAI's CLIP with a vision transformer"


def open_clip_config(model: "HuggingFaceEncoder", own_tokenizer: bool) -> dict[str, Any]:
    """`model_cfg` of a `CLIPModel`.

    Args:
        own_tokenizer: the folder holds the tokenizer's files; else open_clip's own tokenizer, which is OpenAI's, is meant.

    Raises:
        ModelError: not a `CLIPModel`, or one that open_clip cannot build.
    """
    config = model.backbone.config
    if config.model_type != "clip":
        raise ModelError(
            f"'{model.name}' is a {type(model.backbone).__name__}, which open_clip builds from other parts under other names, "
            "if at all. Only CLIPModel can be exported as open_clip; export this one as hf."
        )
    vision, text = config.vision_config, config.text_config
    acts = {vision.hidden_act, text.hidden_act}
    if len(acts) != 1 or not acts <= set(ACTIVATIONS):
        raise ModelError(
            f"'{model.name}' uses the activations {', '.join(sorted(acts))}; open_clip builds both towers with gelu or both "
            "with quick_gelu. Export it as hf."
        )
    vision_cfg: dict[str, Any] = {
        "image_size": int(vision.image_size),
        "layers": vision.num_hidden_layers,
        "width": vision.hidden_size,
        "head_width": vision.hidden_size // vision.num_attention_heads,
        "patch_size": int(vision.patch_size),
        "mlp_ratio": _ratio(vision.intermediate_size, vision.hidden_size),
    }
    text_cfg: dict[str, Any] = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        "mlp_ratio": _ratio(text.intermediate_size, text.hidden_size),
    }
    for tower, part in ((vision_cfg, vision), (text_cfg, text)):
        if part.layer_norm_eps != 1e-5:
            tower["norm_kwargs"] = {"eps": part.layer_norm_eps}
    if text.eos_token_id not in (2, text.vocab_size - 1):  # 2: an old config, which transformers reads as the highest id
        text_cfg |= {"pool_type": "eos", "eos_id": text.eos_token_id}
    if own_tokenizer:
        text_cfg["hf_tokenizer_name"] = "."  # any name: beside a local config open_clip reads the folder itself
    return {
        "embed_dim": config.projection_dim,
        "quick_gelu": ACTIVATIONS[acts.pop()],
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }


def open_clip_preprocess(model: "DualEncoder") -> dict[str, Any]:
    """`preprocess_cfg`: how pictures were resized when the model was tuned and measured here, whatever its original did."""
    mean, std = model.mean_C11.flatten().tolist(), model.std_C11.flatten().tolist()
    return {
        "mean": [round(m, 8) for m in mean],
        "std": [round(s, 8) for s in std],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def clip_config(model: "OpenClipEncoder", tokenizer: Any) -> Any:
    """transformers' `CLIPConfig` of an open_clip CLIP.

    Raises:
        ModelError: built otherwise than OpenAI's CLIP with a vision transformer.
    """
    import transformers

    config = model.model_config
    vision, text = config["vision_cfg"], config["text_cfg"]
    odd = [f"vision_cfg.{key}" for key in _said(vision, VISION_KEYS)] + [f"text_cfg.{key}" for key in _said(text, TEXT_KEYS)]
    tower = getattr(model.backbone, "text", model.backbone)  # open_clip's "custom text" is the same tower one level down
    if type(tower).__name__ not in ("CLIP", "TextTransformer"):
        odd.append(f"a text tower {type(tower).__name__}")
    if isinstance(vision.get("layers"), list):
        odd.append("a ResNet")
    if model.logit_bias is not None:
        odd.append("a bias of the logits")
    if text.get("pool_type", "argmax") not in ("argmax", "eos"):
        odd.append(f"text_cfg.pool_type {text['pool_type']}")
    if odd:
        raise ModelError(
            f"'{model.name}' is built otherwise than {CUSTOM} ({', '.join(odd[:3])}), so transformers' CLIPModel cannot hold "
            "it. Export it as open_clip, onnx or torch-export."
        )
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    towers: dict[str, Any] = {}
    for kind, part, heads in (
        ("vision", vision, vision.get("width", 768) // vision.get("head_width", 64)),
        ("text", text, text.get("heads", 8)),
    ):
        width = part.get("width", 768 if kind == "vision" else 512)
        towers[f"{kind}_config"] = {
            "hidden_size": width,
            "intermediate_size": int(width * part.get("mlp_ratio", 4.0)),
            "num_hidden_layers": part.get("layers", 12),
            "num_attention_heads": heads,
            "hidden_act": act,
            "layer_norm_eps": (part.get("norm_kwargs") or {}).get("eps", 1e-5),
            "projection_dim": config["embed_dim"],
        }
    towers["vision_config"] |= {"image_size": model.image_size, "patch_size": vision.get("patch_size", 16)}
    towers["text_config"] |= ids | {
        "vocab_size": text.get("vocab_size", OPENAI_VOCABULARY),
        "max_position_embeddings": text.get("context_length", 77),
    }
    return transformers.CLIPConfig(projection_dim=config["embed_dim"], **towers)


def openai_tokenizer(model: "OpenClipEncoder") -> Any:
    """The model's tokenizer as transformers has it: its own, or OpenAI's built from the merges that come with open_clip.

    Raises:
        ModelError: another tokenizer, which transformers has no form of.
    """
    import open_clip
    import transformers

    inner = getattr(model.tokenizer, "tokenizer", None)  # of HFTokenizer
    if isinstance(inner, transformers.PreTrainedTokenizerBase):
        return inner
    if type(model.tokenizer).__name__ != "SimpleTokenizer" or model.tokenizer.vocab_size != OPENAI_VOCABULARY:
        raise ModelError(
            f"The tokenizer of '{model.name}' ({type(model.tokenizer).__name__}) has no form in transformers. "
            "Export the model as open_clip, onnx or torch-export."
        )
    merges_file = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(merges_file.read_bytes()).decode("utf-8").split("\n")[1 : OPENAI_MERGES + 1]
    signs = _byte_signs()
    entries = [*signs, *(sign + "</w>" for sign in signs), *(merge.replace(" ", "") for merge in merges), START, END]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vocabulary = {entry: index for index, entry in enumerate(entries)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": model.tokenizer.context_length or 77})
        )
        return transformers.AutoTokenizer.from_pretrained(folder)


def _ratio(inner: int, width: int) -> float:
    """What times `width` and cut to an integer, as open_clip does it, gives `inner`: the quotient may fall just short."""
    ratio = inner / width
    return ratio if int(width * ratio) == inner else math.nextafter(ratio, math.inf)


def _said(part: Mapping[str, Any], known: set[str]) -> list[str]:
    """Keys that make the tower another one. Those at a value that means 'not' say nothing."""
    silent = ("tok", "learnable", "linear") if "patch_size" in part else ("linear",)
    return [key for key, value in part.items() if key not in known and value not in (None, False, 0, *silent)]


def _byte_signs() -> list[str]:
    """The 256 characters that stand for bytes in OpenAI's vocabulary: printable ones for themselves, then the others."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(code) for code in printable] + [chr(256 + n) for n in range(256 - len(printable))]
