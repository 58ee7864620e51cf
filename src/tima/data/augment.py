"""Augmentation on whole batches: random crop and flip as one resampling, brightness, contrast, now and then grey."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(
    image_BCHW: Tensor,
    generator: torch.Generator,
    min_scale: float = 0.65,
    grey: float = 0.1,
    jitter: float = 0.3,
    place_B: Tensor | None = None,
    places: int | None = None,
) -> Tensor:
    """Pixels in [0, 1] to pixels in [0, 1]; every random number comes from `generator`.

    Args:
        place_B: where these images are in a batch of `places`, whose other images may be elsewhere: each then gets the numbers
            that it would get if all were here. None: these are the batch.
    """
    B, device = len(image_BCHW), image_BCHW.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        if place_B is not None and places is not None:
            drawn = torch.rand(places, *shape[1:], generator=generator)[place_B]
        else:
            drawn = torch.rand(*shape, generator=generator)
        return (low + (high - low) * drawn).to(device)

    scale_B = uniform(min_scale, 1, B)
    aspect_B = uniform(-0.15, 0.15, B).exp()
    flip_B = torch.where(uniform(0, 1, B) < 0.5, -1.0, 1.0)
    theta_B23 = torch.zeros(B, 2, 3, device=device)
    theta_B23[:, 0, 0], theta_B23[:, 1, 1] = scale_B * aspect_B * flip_B, scale_B / aspect_B
    theta_B23[:, :, 2] = uniform(-1, 1, B, 2) * (1 - scale_B)[:, None]
    grid = F.affine_grid(theta_B23, list(image_BCHW.shape), align_corners=False)
    out_BCHW = F.grid_sample(image_BCHW, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    mean_B111 = out_BCHW.mean((1, 2, 3), keepdim=True)
    contrast_B111 = uniform(1 - jitter, 1 + jitter, B, 1, 1, 1)
    out_BCHW = (out_BCHW - mean_B111) * contrast_B111 + mean_B111 * uniform(1 - jitter, 1 + jitter, B, 1, 1, 1)
    grey_B111 = uniform(0, 1, B, 1, 1, 1) < grey
    return torch.where(grey_B111, out_BCHW.mean(1, keepdim=True), out_BCHW).clamp(0, 1)
