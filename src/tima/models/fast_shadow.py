"""A copy of any library's image tower in low precision, for the gradients of attacks.

The first convolution, which reads the pixels, stays in fp32: after normalisation they reach 2.6, where neighbouring bf16
numbers are 1/64 apart, and steps of 1/255 would vanish. Where the copy does not run, autocast is the fallback.

Shapes: `B` images, `C` channels, `H, W` pixels, `D` embedding width.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tima.models.dual_encoder import DualEncoder


class ShadowTower:
    """Pixels in [0, 1] to un-normalised embeddings `B x D`.

    Args:
        model: whose image tower is copied; the text tower is shared, not copied.
        dtype: of the copy's weights, and of what it computes.
        notes: gets a line when the copy does not run.
    """

    def __init__(self, model: DualEncoder, dtype: torch.dtype, notes: list[str]) -> None:
        self.model, self.dtype = model, dtype
        try:
            self.copy: DualEncoder | None = _cast_copy(model, dtype)
            with torch.no_grad():
                self(model.mean_C11.new_zeros(1, len(model.mean_C11), model.image_size, model.image_size))
        except (RuntimeError, TypeError, ValueError) as error:  # a tower that mixes types, or one that cannot be copied
            self.copy = None
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            line = f"autocast in place of a copy in {str(dtype).removeprefix('torch.')}: {why[:200]}"
            if line not in notes:
                notes.append(line)

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        model = self.copy or self.model
        normalised_BCHW = (image_BCHW - model.mean_C11) / model.std_C11
        with torch.autocast(image_BCHW.device.type, self.dtype, enabled=self.copy is None):
            return model._image_features(normalised_BCHW)


def _cast_copy(model: DualEncoder, dtype: torch.dtype) -> DualEncoder:
    image = {id(p) for p in model.image_parameters().values()}
    shared: dict[int, Any] = {id(p): p for p in model.parameters() if id(p) not in image}
    tokenizer = getattr(model, "tokenizer", None)
    twin = copy.deepcopy(model, {**shared, id(tokenizer): tokenizer} if tokenizer is not None else shared)
    twin.eval()
    twin.use_attention("eager")  # the fused kernel's bf16 backward is several times slower on CPU
    for parameter in twin.image_parameters().values():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(dtype)
    _read_pixels_in_fp32(twin, dtype)
    return twin


def _read_pixels_in_fp32(twin: DualEncoder, dtype: torch.dtype) -> None:
    image = {id(p) for p in twin.image_parameters().values()}
    for module in twin.backbone.modules():
        if isinstance(module, nn.Conv2d) and id(module.weight) in image:
            module.float()
            module.register_forward_hook(lambda _module, _inputs, output: output.to(dtype))
            return
