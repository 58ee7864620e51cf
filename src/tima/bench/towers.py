"""Floating-point operations of a transformer tower, from its sizes alone.

Only matrix products are counted, two operations a multiply-add, as torch's own counter does. Softmax, norms and activations
are under one per cent of the operations (and a good deal more of the time: `elements` counts what they touch).

Symbols: `N` tokens, `W` width, `M` width of the MLP, `L` layers, `H` heads, `P` inputs of a patch, `D` embedding width.
"""

from dataclasses import dataclass
from typing import Any

from tima.models import DualEncoder


@dataclass(frozen=True)
class Tower:
    """One tower of a dual encoder.

    Attributes:
        layers, width, mlp, heads: of the transformer.
        tokens: the sequence's length: patches and the class token, or a text's tokens.
        out: width of the embedding.
        patch: inputs of one patch (channels x side x side); 0 for texts.
        vocab: rows of the embedding table; 0 for images.
        positions: rows of the table of positions.
        last_token_only: in the last layer only one token asks, is projected and goes through the MLP (`models/lean.py`).
    """

    layers: int
    width: int
    mlp: int
    heads: int
    tokens: int
    out: int
    patch: int = 0
    vocab: int = 0
    positions: int = 0
    last_token_only: bool = False

    @property
    def embedding(self) -> float:
        """Operations of the patch embedding: `2 (N - 1) P W`."""
        return 2.0 * (self.tokens - 1) * self.patch * self.width if self.patch else 0.0

    @property
    def linear(self) -> float:
        """Operations of one forward pass in products with weights: `2 N (4 W^2 + 2 W M) L`, embedding and projection."""
        n, w, m = self.tokens, self.width, self.mlp
        layer = 2.0 * n * (4 * w * w + 2 * w * m)
        last = 2.0 * (n * 2 * w * w + 2 * w * w + 2 * w * m) if self.last_token_only else layer
        return self.embedding + layer * (self.layers - 1) + last + 2.0 * w * self.out

    @property
    def attention(self) -> float:
        """Operations of one forward pass in products of tokens with tokens: `4 N^2 W L`."""
        n, w = self.tokens, self.width
        return 4.0 * n * n * w * (self.layers - 1) + 4.0 * (1 if self.last_token_only else n) * n * w

    @property
    def forward(self) -> float:
        """Operations of one forward pass."""
        return self.linear + self.attention

    @property
    def backward_input(self) -> float:
        """To the input alone, the attack's: each product with a weight once, each of tokens with tokens twice."""
        return self.linear + 2 * self.attention

    @property
    def backward_weights(self) -> float:
        """Of the backward pass to all weights, the outer step's: everything twice; no gradient of the pixels."""
        return 2 * self.linear - self.embedding + 2 * self.attention

    @property
    def elements(self) -> float:
        """Numbers that norms, activations, softmax, residuals and copies touch in one forward pass.

        About ten a token and width, three a token and MLP width, four a pair of tokens and head: of `models/lean.py` read line
        by line. What a number costs is for calibration to say.
        """
        n, w = self.tokens, self.width
        layer = n * (10 * w + 3 * self.mlp) + 4 * self.heads * n * n
        last = (n * 4 * w + 6 * w + 3 * self.mlp + 4 * self.heads * n) if self.last_token_only else layer
        return layer * (self.layers - 1) + last + 4 * n * w + 3 * max(self.tokens - 1, 0) * self.patch

    @property
    def parameters(self) -> int:
        """Weights, biases and norms, without the projection's bias (CLIP has none)."""
        w, m = self.width, self.mlp
        layer = 4 * w * w + 4 * w + 2 * w * m + w + m + 4 * w
        norms = 4 * w if self.patch else 2 * w
        first = self.patch * w + w if self.patch else self.vocab * w
        return self.layers * layer + norms + first + self.positions * w + w * self.out


@dataclass(frozen=True)
class Shape:
    """The sizes of a dual encoder.

    Attributes:
        exact: False for towers that only resemble CLIP's (SigLIP's pooling head, DINOv2's scaling): counts are then near, not
            equal, to what torch counts.
    """

    image: Tower
    text: Tower
    image_size: int
    exact: bool = True


def shape_of(model: DualEncoder, text_tokens: int | None = None) -> Shape | None:
    """Sizes of a transformers model, or None for a tower that is no plain vision transformer.

    Args:
        text_tokens: length of the texts; None is the longest that the model takes.
    """
    config = getattr(getattr(model, "backbone", None), "config", None)
    if config is None or not hasattr(config, "vision_config"):
        return None
    longest: Any = getattr(model, "context_length", 77)
    return shape_of_config(config, int(text_tokens or longest), model.embed_dim)


def shape_of_config(config: Any, text_tokens: int, embed_dim: int) -> Shape | None:
    """The same from a transformers configuration."""
    vision, text = config.vision_config, config.text_config
    for part, names in ((vision, ("patch_size", "image_size", "num_channels")), (text, ("vocab_size",))):
        if any(not isinstance(getattr(part, name, None), int) for name in (*_SIZES, *names)):
            return None
    clip = config.model_type == "clip"
    patches = (vision.image_size // vision.patch_size) ** 2
    class_token = 0 if config.model_type == "siglip" else 1
    image = Tower(
        *(vision.num_hidden_layers, vision.hidden_size, _mlp(vision), vision.num_attention_heads),
        tokens=patches + class_token,
        out=embed_dim,
        patch=vision.num_channels * vision.patch_size**2,
        positions=patches + class_token,
    )
    words = Tower(
        *(text.num_hidden_layers, text.hidden_size, _mlp(text), text.num_attention_heads),
        tokens=text_tokens,
        out=embed_dim,
        vocab=text.vocab_size,
        positions=int(getattr(text, "max_position_embeddings", 77)),
    )
    return Shape(image, words, int(vision.image_size), exact=clip)


_SIZES = ("num_hidden_layers", "hidden_size", "num_attention_heads")


def _mlp(config: Any) -> int:
    """DINOv2 gives the MLP's width as a ratio."""
    width = getattr(config, "intermediate_size", None)
    return int(width) if width is not None else int(config.hidden_size * getattr(config, "mlp_ratio", 4))
