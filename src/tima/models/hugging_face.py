"""Hugging Face transformers back end: CLIPModel, SiglipModel, VisionTextDualEncoderModel."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.errors import ModelError
from tima.models import lean, lean_text
from tima.models.checkpointing import checkpoint_layers
from tima.models.dual_encoder import DualEncoder
from tima.models.fast_compile import CompiledTower
from tima.models.finite import check_finite
from tima.models.hugging_face_files import (
    CLIP_MEAN,
    CLIP_STD,
    damaged_file,
    first_line,
    load_tokenizer,
    mean_std,
    no_bar,
    refuse_pickles,
    write_preprocessor,
)
from tima.models.visual_prompt import save_prompt

TORCHVISION_HINT = (
    "the torchvision that is installed was built for another torch; install the matching one, or uninstall it: "
    "tima does not need it for Hugging Face models"
)

# model_type -> (class name, image prefixes, text prefixes, prefixes of the text projection)
FAMILIES = {
    "clip": ("CLIPModel", ("vision_model.", "visual_projection."), ("text_model.", "text_projection."), ("text_projection.",)),
    "siglip": ("SiglipModel", ("vision_model.",), ("text_model.",), ("text_model.head.",)),
    "vision-text-dual-encoder": (
        "VisionTextDualEncoderModel",
        ("vision_model.", "visual_projection."),
        ("text_model.", "text_projection."),
        ("text_projection.",),
    ),
}

PATCH_TOWERS = ("clip_vision_model", "dinov2", "dinov2_with_registers")  # whose pooled output is the first of their tokens


class HuggingFaceEncoder(DualEncoder):
    """A transformers dual encoder. `backbone` is the library's own model, so `save_pretrained` is the library's too."""

    def __init__(self, backbone: Any, tokenizer: Any, *, mean: Sequence[float], std: Sequence[float], name: str) -> None:
        super().__init__(mean, std)
        family = FAMILIES.get(backbone.config.model_type)
        if family is None:
            raise ModelError(
                f"'{name}' is a '{backbone.config.model_type}' model; supported are {', '.join(FAMILIES)}. "
                "Other two-tower models need a back end like tima/models/hugging_face.py."
            )
        self.backbone, self.tokenizer, self.name = backbone.float(), tokenizer, name
        _, self.image_prefixes, self.text_prefixes, self.text_projection_prefixes = family
        self.image_size = int(backbone.config.vision_config.image_size)
        self.embed_dim = _embed_dim(backbone)
        self._sigmoid = backbone.config.model_type == "siglip"
        # a tokenizer may know a shorter limit than the tower (sentence encoders), or none at all (1e30)
        limits = (getattr(backbone.config.text_config, "max_position_embeddings", 77), tokenizer.model_max_length, 512)
        self.context_length = int(min(limits))
        self._lean_dtype: torch.dtype | None = None
        self._lean_kept: lean.KeptWeights | None = None
        self._lean_states: lean_text.KeptStates | None = None
        self._compiled: dict[bool, CompiledTower] = {}  # by whether the weights get gradients
        self._recompute = False
        self.eval()

    def _image_features(self, normalised_BCHW: Tensor) -> Tensor:
        return _pooled(self.backbone.get_image_features(pixel_values=normalised_BCHW))

    def _patch_features(self, normalised_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        config = self.backbone.config
        if config.model_type == "siglip" or config.vision_config.model_type not in PATCH_TOWERS:
            return super()._patch_features(normalised_BCHW)
        tower = self.backbone.vision_model
        token_BTW = tower(pixel_values=normalised_BCHW).last_hidden_state
        # of CLIP's tower these tokens come before the last norm, of DINOv2's after it; both read the image out of token 0
        norm = next((m for m in tower.modules() if hasattr(m, "post_layernorm")), None)
        token_BTD = self.backbone.visual_projection(token_BTW if norm is None else norm.post_layernorm(token_BTW))
        patches = (self.image_size // int(config.vision_config.patch_size)) ** 2
        return token_BTD[:, 0], token_BTD[:, -patches:]  # DINOv2's register tokens, where it has them, stand between

    def _text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        if self._lean_dtype is not None and torch.is_grad_enabled() and lean_text.supports(self):
            projection = set(self.text_parameters("projection"))
            trains = [name for name, p in self.text_parameters("full").items() if p.requires_grad]
            if trains:  # texts that nothing is learned from are encoded once for a run, exactly
                return self._lean_text(tokens["input_ids"], projection_alone=set(trains) <= projection)
        return _pooled(self.backbone.get_text_features(**tokens))

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        # CLIP's text tower is causal and reads out at the end-of-text token: padding after the longest prompt changes
        # no embedding, so it is cut. SigLIP reads the last position and was trained at full length: it keeps its padding.
        padding = "max_length" if self._sigmoid else "longest"
        encoded = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=self.context_length, return_tensors="pt"
        )
        keys = ("input_ids",) if self._sigmoid else ("input_ids", "attention_mask")
        return {key: encoded[key] for key in keys if key in encoded}

    def save_pretrained(self, folder: str | Path) -> None:
        folder = Path(folder)
        with no_bar():  # it would tear a training's own bar, and appear where --quiet asked for none
            self.backbone.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        write_preprocessor(folder, self.image_size, self.mean_C11.flatten().tolist(), self.std_C11.flatten().tolist())
        save_prompt(self.prompt, folder)

    def use_lean(self, dtype: torch.dtype | None) -> torch.dtype | None:
        """Faster passes (see `lean.py`), in another precision if wanted. Other towers than CLIP's stay as they are.

        All image passes, and those of texts in which the text tower learns; texts that are kept are the library's.
        """
        before = self._lean_dtype
        self._lean_dtype = dtype if dtype is not None and lean.supports(self) else None
        self._lean_kept, self._lean_states = None, None
        return before

    @property
    def is_lean(self) -> bool:
        return self._lean_dtype is not None

    def use_compile(self, notes: list[str] | None) -> bool:
        """Let torch.compile fuse the lean image tower, or (None) not. Returns whether it will be tried."""
        if notes is None or self._lean_dtype is None:
            self._compiled = {}
            return False
        # the attack's passes are many and alike: on a GPU they are recorded and replayed (CUDA graphs)
        mode = "reduce-overhead" if self.mean_C11.is_cuda else None
        self._compiled = {False: CompiledTower(notes, mode, whole_only=True), True: CompiledTower(notes, whole_only=True)}
        return True

    def use_checkpointing(self, on: bool) -> int:
        self._recompute, self._lean_kept = on, None
        return checkpoint_layers(self.backbone, on)

    def encode_image(self, image_BCHW: Tensor, *, normalize: bool = True) -> Tensor:
        if self._lean_dtype is None:
            return super().encode_image(image_BCHW, normalize=normalize)
        self._check_pixels(image_BCHW)
        weights, trains = self._lean_weights()
        run = self._compiled.get(trains, lean.image_features)
        feature_BD = run(weights, self.prompted(image_BCHW))
        return F.normalize(feature_BD, dim=-1) if normalize else feature_BD

    def _lean_weights(self) -> tuple[lean.LeanWeights, bool]:
        """Arranged anew when gradients must reach the weights (then True) or these changed, else those of the last call."""
        assert self._lean_dtype is not None
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.image_parameters().values()):
            return lean.gather_weights(self, self._lean_dtype, self._recompute), True
        if self._lean_kept is None:
            self._lean_kept = lean.KeptWeights(self, self._lean_dtype, self._recompute)
        return self._lean_kept(), False

    def _lean_text(self, id_CL: Tensor, projection_alone: bool) -> Tensor:
        assert self._lean_dtype is not None
        if not projection_alone:
            return lean_text.text_features(lean_text.gather_text(self, self._lean_dtype, self._recompute), id_CL)
        if self._lean_states is None:
            self._lean_states = lean_text.KeptStates(self, self._lean_dtype)
        with torch.autocast(id_CL.device.type, enabled=False):
            return F.linear(self._lean_states(id_CL), self.backbone.text_projection.weight.float())

    def use_attention(self, implementation: str) -> str:
        """`eager` or `sdpa`. In bf16 on CPU the fused kernel's backward is several times slower than plain attention."""
        before = str(self.backbone.config._attn_implementation)
        self.backbone.set_attn_implementation(implementation)
        return before


def load_hugging_face(source: str | Path, name: str | None = None) -> HuggingFaceEncoder:
    """Load from a hub name or a local folder. Weights are read as safetensors; no code from the checkpoint is run.

    Raises:
        ModelError: not found, not a supported family, damaged or incomplete weights, NaN among them, or without a tokenizer.
    """
    import transformers
    from safetensors import SafetensorError

    refuse_pickles(Path(source))
    try:
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        hub = "" if Path(source).is_dir() else " Is the name right, and the network there? 'nano' and folders need none."
        raise ModelError(f"'{source}' cannot be opened as a Hugging Face model: {first_line(error)}{hub}") from error
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(f"'{source}' is a '{config.model_type}' model; supported are {', '.join(FAMILIES)}.")
    try:
        # transformers hides why one of its models cannot be imported; the usual reason is a torchvision of another build
        model_class = getattr(transformers, family[0])
        with no_bar():  # reading a file of weights takes a second; its bar would tear ours
            backbone, report = model_class.from_pretrained(
                source, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except SafetensorError as error:
        raise ModelError(f"{damaged_file(Path(source))}: damaged weights ({first_line(error)}). Copy them again.") from error
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        hint = f" ({TORCHVISION_HINT})" if "torchvision" in f"{error!r} {error.__cause__!r}" else ""
        raise ModelError(f"'{source}' cannot be loaded: {first_line(error)}{hint}") from error
    if missing := sorted(report["missing_keys"]):  # transformers fills them with random numbers and only warns
        raise ModelError(
            f"'{source}': the weights file lacks {len(missing)} of the model's parameters, first {missing[0]}. "
            f"It belongs to another model than the config.json beside it."
        )
    mean, std = mean_std(source)
    encoder = HuggingFaceEncoder(backbone, load_tokenizer(source, config), mean=mean, std=std, name=name or str(source))
    encoder.requires_grad_(False)
    return check_finite(encoder, str(source))


def _pooled(output: Any) -> Tensor:
    """transformers 5 returns an output object whose `pooler_output` is the projected embedding, 4.x the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _embed_dim(backbone: Any) -> int:
    if backbone.config.model_type == "siglip":
        return int(backbone.config.vision_config.hidden_size)
    return int(backbone.config.projection_dim)


__all__ = ["CLIP_MEAN", "CLIP_STD", "FAMILIES", "HuggingFaceEncoder", "load_hugging_face", "write_preprocessor"]
