"""open_clip back end: built-in architectures with their published weights, hub repositories and local folders.

Shapes: `B` images, `C` texts, `D` embedding width, `L` tokens, `H, W` pixels.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tima.errors import ModelError
from tima.models.dual_encoder import DualEncoder
from tima.models.finite import check_finite
from tima.models.visual_prompt import save_prompt

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


class OpenClipEncoder(DualEncoder):
    """An open_clip dual encoder. `backbone` is the library's own model.

    Args:
        backbone: a `CLIP`, `CustomTextCLIP` or `CoCa` of open_clip.
        tokenizer: open_clip's tokenizer of that model.
        model_config: its `model_cfg`, written by `save_pretrained`.
    """

    def __init__(self, backbone: Any, tokenizer: Any, model_config: dict[str, Any], *, name: str) -> None:
        preprocess = backbone.visual.preprocess_cfg
        super().__init__(preprocess["mean"], preprocess["std"])
        self.backbone, self.tokenizer, self.name = backbone.float(), tokenizer, name
        self.model_config, self.preprocess = model_config, preprocess
        self.image_size = _square(preprocess["size"], name)
        self.embed_dim = int(model_config["embed_dim"])
        self.image_prefixes = ("visual.",)
        self.text_prefixes = _text_prefixes(backbone)
        self.text_projection_prefixes = ("text_projection", "text.text_projection", "text.proj.")
        # A causal tower that reads out at the end-of-text token does not see what follows it. Only the plain CLIP class
        # is known to be that; other text towers (Hugging Face, SigLIP, CoCa) keep their full length.
        plain = type(backbone).__name__ == "CLIP"
        self._can_cut = plain and backbone.attn_mask is not None and backbone.text_pool_type in ("argmax", "eos")
        self.eval()

    def _image_features(self, normalised_BCHW: Tensor) -> Tensor:
        return self.backbone.encode_image(normalised_BCHW, normalize=False)

    def _text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        ids_CL = tokens["input_ids"]
        if not self._can_cut:
            return self.backbone.encode_text(ids_CL, normalize=False)
        # the library's own encode_text insists on the full length
        model = self.backbone
        L = ids_CL.shape[1]
        dtype = model.transformer.get_cast_dtype()
        hidden_CLW = model.token_embedding(ids_CL).to(dtype) + model.positional_embedding[:L].to(dtype)
        hidden_CLW = model.ln_final(model.transformer(hidden_CLW, attn_mask=model.attn_mask[:L, :L]))
        pooled_CW = hidden_CLW[torch.arange(len(ids_CL), device=ids_CL.device), self._end_of_text(ids_CL)]
        projection = model.text_projection
        if projection is None:
            return pooled_CW
        return projection(pooled_CW) if isinstance(projection, nn.Module) else pooled_CW @ projection

    def _end_of_text(self, ids_CL: Tensor) -> Tensor:
        """Position of the end-of-text token: it has the highest id, unless the model names another."""
        if self.backbone.text_pool_type == "argmax":
            return ids_CL.argmax(-1)
        return (ids_CL == self.backbone.text_eos_id).int().argmax(-1)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        ids_CL = self.tokenizer(list(texts))
        return {"input_ids": ids_CL[:, : int(self._end_of_text(ids_CL).max()) + 1] if self._can_cut else ids_CL}

    def save_pretrained(self, folder: str | Path) -> None:
        """`open_clip_config.json` and safetensors; `local-dir:FOLDER` reads it, here and in open_clip."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kept = {key: self.preprocess[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in self.preprocess}
        config = {"model_cfg": self.model_config, "preprocess_cfg": kept}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {name: value.detach().cpu().clone().contiguous() for name, value in self.backbone.state_dict().items()}
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        if hasattr(self.tokenizer, "save_pretrained"):  # the default tokenizer is part of the library and has no files
            self.tokenizer.save_pretrained(folder)
        save_prompt(self.prompt, folder)


def load_open_clip(source: str, name: str | None = None) -> OpenClipEncoder:
    """Load an open_clip model, frozen and in eval mode.

    Args:
        source: `open_clip:ARCHITECTURE,TAG` (a published tag, a weights file, or `none` for random weights),
            `hf-hub:org/name` or `local-dir:/path`.
        name: what tables call it; the source itself by default.

    Raises:
        ModelError: open_clip cannot be imported, unknown architecture or tag, or weights that cannot be had.
    """
    library = import_open_clip()
    architecture, tag = source, None
    if source.startswith("open_clip:"):
        architecture, tag = _architecture_and_tag(library, source)
    elif source.startswith("local-dir:"):
        architecture = f"local-dir:{_checked_folder(source.removeprefix('local-dir:'))}"
    wants_weights = tag != "none"
    try:
        backbone = library.create_model(
            architecture, tag if wants_weights else None, pretrained_text=False, require_pretrained=wants_weights
        )
        tokenizer = library.get_tokenizer(architecture)
        model_config = library.get_model_config(architecture)
    except Exception as error:  # the library, the hub's client and the readers of weights each raise their own
        raise ModelError(f"'{source}' cannot be loaded: {_short(error)}") from error
    encoder = OpenClipEncoder(backbone, tokenizer, model_config, name=name or source)
    encoder.requires_grad_(False)
    return check_finite(encoder, source)


def import_open_clip() -> Any:
    """The library, or a `ModelError` that says what is wrong with the installation."""
    try:
        import open_clip
    except ImportError as error:
        if error.name == "open_clip":
            raise ModelError("open_clip is not installed. Install it with: pip install 'tima[open-clip]'") from error
        raise ModelError(f"open_clip cannot be imported: {error}. Install it again: pip install 'tima[open-clip]'") from error
    except (RuntimeError, AttributeError) as error:
        raise ModelError(
            f"open_clip cannot be imported: {_short(error)}. It needs torchvision, and the one installed was built for another "
            f"torch than {torch.__version__}. Install torch and torchvision together from one source, for CPU for example: "
            "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
        ) from error
    return open_clip


def _architecture_and_tag(library: Any, source: str) -> tuple[str, str]:
    architecture, _, tag = (part.strip() for part in source.removeprefix("open_clip:").partition(","))
    known = library.list_models()
    if architecture not in known:
        close = difflib.get_close_matches(architecture, known, n=3) or known[:3]
        raise ModelError(f"open_clip has no architecture '{architecture}'. Close to it: {', '.join(close)}.")
    tags = library.list_pretrained_tags_by_model(architecture)
    offered = ", ".join(tags) or "none are published for it"
    if not tag:
        raise ModelError(
            f"'{source}' names no weights, so they would be random. Write open_clip:{architecture},TAG (tags: {offered}), "
            f"or open_clip:{architecture},none if random weights are meant."
        )
    if tag != "none" and tag not in tags and not Path(tag).is_file():
        raise ModelError(f"open_clip has no weights '{tag}' for {architecture}, and there is no such file. Tags: {offered}.")
    _check_activation(library, architecture, tag)
    return architecture, tag


def _check_activation(library: Any, architecture: str, tag: str) -> None:
    """open_clip only warns when weights trained with QuickGELU go into a model with GELU; points of accuracy are lost."""
    published = library.get_pretrained_cfg(architecture, tag)
    if not published:
        return
    trained, built = (bool(c.get("quick_gelu", False)) for c in (published, library.get_model_config(architecture)))
    if trained != built:
        other = f"{architecture}-quickgelu" if trained else architecture.removesuffix("-quickgelu")
        raise ModelError(
            f"The weights '{tag}' were trained {'with' if trained else 'without'} QuickGELU and {architecture} is built "
            f"{'with' if built else 'without'} it. Use open_clip:{other},{tag}."
        )


def _checked_folder(text: str) -> Path:
    folder = Path(text).expanduser()
    if not (folder / CONFIG_FILE).is_file():
        what = "there is no such file in it" if folder.is_dir() else "the folder does not exist"
        raise ModelError(f"{folder} is no open_clip model: it needs {CONFIG_FILE}, and {what}.")
    return folder


def _text_prefixes(backbone: nn.Module) -> tuple[str, ...]:
    """Roots of all parameters but the image tower's, the scale and bias, and a captioner's decoder."""
    left_out = ("visual", "logit_scale", "logit_bias", "text_decoder")
    names = [name for name, _ in backbone.named_parameters()]
    roots = dict.fromkeys(name.split(".")[0] + ("." if "." in name else "") for name in names)
    return tuple(root for root in roots if root.rstrip(".") not in left_out)


def _square(size: int | Sequence[int], name: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ModelError(f"'{name}' takes images of {size} pixels; only square grids are supported.")
    return int(sides.pop())


def _short(error: Exception) -> str:
    """The first line of an error, and not all of it: open_clip lists every model it knows."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
