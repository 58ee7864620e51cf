"""`DualEncoder`: two towers behind one small interface.

Shapes: `B` images, `C` texts, `D` embedding width, `L` tokens, `H, W` pixels.

The contract that everything above relies on: pixels come in as float in [0, 1], the model's own mean and standard
deviation are applied inside, embeddings are unit-norm unless asked otherwise, and logits are
`logit_scale * image @ text.T + logit_bias` in fp32.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tima.errors import ModelError
from tima.models.checkpointing import checkpoint_layers
from tima.models.visual_prompt import PaddingPrompt


class DualEncoder(nn.Module, ABC):
    """Base of the two-tower models. A back end fills in the three `_` methods and the attributes.

    Attributes:
        name: where the model came from, for tables and messages.
        image_size: side of the input grid in pixels.
        embed_dim: `D`.
        backbone: the wrapped library model; holds every parameter but the visual prompt's.
        prompt: a learned frame that is added to every image, or None (see `visual_prompt.py`).
        image_prefixes: what names of parameters in `backbone` begin with that belong to the image tower and its projection.
        text_prefixes: the same for the text tower and its projection.
        text_projection_prefixes: the same for the text tower's last projection alone.
    """

    name: str
    image_size: int
    embed_dim: int
    backbone: Any  # a module of another library, with methods that nn.Module does not know
    image_prefixes: tuple[str, ...]
    text_prefixes: tuple[str, ...]
    text_projection_prefixes: tuple[str, ...]
    mean_C11: Tensor
    std_C11: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean_C11", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        self.prompt: PaddingPrompt | None = None

    # what a back end provides ------------------------------------------------------------------------------------

    @abstractmethod
    def _image_features(self, normalised_BCHW: Tensor) -> Tensor:
        """Normalised pixels to un-normalised embeddings `B x D`."""

    @abstractmethod
    def _text_features(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """Tokens of `tokenize` to un-normalised embeddings `C x D`."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts to the back end's token tensors (`input_ids_CL`, ...), no longer than the longest text needs."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model in its library's own folder format (safetensors)."""

    def _patch_features(self, normalised_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """As `_image_features`, and the patches `B x N x D` through the same last layers. Not every tower has them."""
        raise ModelError(
            f"'{self.name}' gives no patch embeddings in the space of its texts. Methods that need them (tga-zsr, comp-tga) "
            "take a transformers CLIPModel, or a VisionTextDualEncoderModel with a CLIP or DINOv2 image tower."
        )

    @property
    def logit_scale(self) -> Tensor:
        """`s = exp(logit_scale)`, a scalar tensor. Both libraries keep its logarithm under this name."""
        return self.backbone.logit_scale.exp().squeeze()  # type: ignore[operator, union-attr]

    @property
    def logit_bias(self) -> Tensor | None:
        """Additive bias of sigmoid models (SigLIP), else None."""
        bias = getattr(self.backbone, "logit_bias", None)
        return None if bias is None else bias.squeeze()

    def use_attention(self, implementation: str) -> str:
        """Choose `eager` or `sdpa` attention, where the back end has the choice; returns what was chosen before."""
        return implementation

    def use_lean(self, dtype: torch.dtype | None) -> torch.dtype | None:
        """Run the image tower through `lean.py` in `dtype` where it can be, or (None) the library. Returns what was set."""
        return None

    @property
    def is_lean(self) -> bool:
        """Whether `use_lean` has an effect now."""
        return False

    def use_compile(self, notes: list[str] | None) -> bool:
        """Compile the image tower at its next pass, or (None) do not; what cannot be done is added to `notes`."""
        return False

    def use_checkpointing(self, on: bool) -> int:
        """Keep one activation a layer and compute the others again in the backward pass: less memory, a third more time.

        Returns how many layers were found.
        """
        return checkpoint_layers(self.backbone, on)

    # what everyone uses ------------------------------------------------------------------------------------------

    def encode_image(self, image_BCHW: Tensor, *, normalize: bool = True) -> Tensor:
        """Pixels in [0, 1] to embeddings `B x D`.

        Raises:
            ModelError: integer pixels, another number of channels, or a grid that is not the model's.
        """
        self._check_pixels(image_BCHW)
        feature_BD = self._image_features(self._normalised(image_BCHW))
        return F.normalize(feature_BD.float(), dim=-1) if normalize else feature_BD.float()

    def encode_patches(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [0, 1] to un-normalised embeddings `B x D`, and of the patches `B x N x D`, row by row of the grid.

        Both from one pass. A patch's embedding is its last token through the layers that make the image's embedding of the
        class token, so that it can be compared with a text.

        Raises:
            ModelError: as `encode_image`, or an image tower without such patches.
        """
        self._check_pixels(image_BCHW)
        feature_BD, patch_BND = self._patch_features(self._normalised(image_BCHW))
        return feature_BD.float(), patch_BND.float()

    def prompted(self, image_BCHW: Tensor) -> Tensor:
        """Pixels with the visual prompt's frame added, where the model has one. They may leave [0, 1] there."""
        # (26) visual prompt: x + std * frame, which is normalise(x) + frame
        return image_BCHW if self.prompt is None else image_BCHW + self.prompt() * self.std_C11

    def _normalised(self, image_BCHW: Tensor) -> Tensor:
        pixel_BCHW = image_BCHW.to(self.mean_C11.dtype)  # float64 from numpy, float16 from a gallery
        return (self.prompted(pixel_BCHW) - self.mean_C11) / self.std_C11

    def _check_pixels(self, image_BCHW: Tensor) -> None:
        if not image_BCHW.is_floating_point():
            raise ModelError("encode_image takes float pixels in [0, 1]; these are integers. Divide uint8 images by 255.")
        wanted = (len(self.mean_C11), self.image_size, self.image_size)
        if image_BCHW.ndim != 4 or image_BCHW.shape[1:] != wanted:  # one channel would broadcast to three unnoticed
            raise ModelError(
                f"'{self.name}' takes images of shape B x {' x '.join(map(str, wanted))}, "
                f"not {' x '.join(map(str, image_BCHW.shape))}."
            )

    def encode_text(self, texts: Sequence[str] | Mapping[str, Tensor], *, normalize: bool = True) -> Tensor:
        """Texts (or tokens from `tokenize`) to embeddings `C x D`.

        Raises:
            ModelError: no text at all, or one string where a list of them is meant.
        """
        if isinstance(texts, str):  # a string is a sequence too: it would become one text a character
            raise ModelError(f"encode_text takes a list of texts, not one string. Write [{texts!r}].")
        if len(texts) == 0:
            raise ModelError("encode_text got no texts.")
        tokens = texts if isinstance(texts, Mapping) else self.tokenize(texts)
        device = self.mean_C11.device
        feature_CD = self._text_features({key: value.to(device) for key, value in tokens.items()})
        return F.normalize(feature_CD.float(), dim=-1) if normalize else feature_CD.float()

    def logits(self, image_BD: Tensor, text_CD: Tensor) -> Tensor:
        """Unit-norm embeddings to logits `B x C`, in fp32."""
        # a bf16 product of embeddings, times a scale of 100, is off by tenths of a logit: autocast stays outside
        with torch.autocast(image_BD.device.type, enabled=False):
            logits_BC = self.logit_scale * (image_BD @ text_CD.T)
            return logits_BC if self.logit_bias is None else logits_BC + self.logit_bias

    def image_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the image tower with its projection, by name in `backbone`."""
        return self._select(self.image_prefixes)

    def text_parameters(self, which: str = "full") -> dict[str, nn.Parameter]:
        """Parameters of the text tower: `full`, `projection` (the last linear map only) or `none`."""
        if which not in ("full", "projection", "none"):
            raise ModelError(f"The text tower can be trained 'full', 'projection' or 'none', not {which!r}.")
        prefixes = {"full": self.text_prefixes, "projection": self.text_projection_prefixes, "none": ()}[which]
        chosen = self._select(prefixes)
        if which != "none" and not chosen:
            raise ModelError(f"'{self.name}' has no parameters for text tower '{which}'.")
        return chosen

    def _select(self, prefixes: tuple[str, ...]) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.backbone.named_parameters() if any(name.startswith(x) for x in prefixes)}

    def _repr_html_(self) -> str:
        from tima._notebook import model_html

        return model_html(self)

    def extra_state(self) -> dict[str, Any]:
        """Facts for a result's record: class, sizes."""
        return {"class": type(self.backbone).__name__, "image_size": self.image_size, "embed_dim": self.embed_dim}
