"""GradAlign: the loss's gradients inside the ball are kept parallel, so that one step of the attack finds what many would.

Source: Andriushchenko & Flammarion, NeurIPS 2020, arXiv 2007.02617, eq. 6. Formula numbers are those of docs/method.md.
Shapes: `B` images, `C` channels, `H, W` pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tima.attacks import LogitsFn, LossFn
from tima.attacks.losses import find_loss
from tima.attacks.projections import Generators, noise
from tima.distributed import batch_share

VANISHING = 1e-3  # relative length below which a gradient has no direction: differentiating its cosine would blow rounding up


def grad_align(
    logits_fn: LogitsFn, image_BCHW: Tensor, target_B: Tensor, eps: float, *, loss: str | LossFn, generator: Generators
) -> Tensor:
    """`1 - cos` of the pixel gradients at the clean image and at a uniform point of the ball, mean over the batch.

    The weights behind `logits_fn` must be free to train: the gradients are differentiated once more. Images with a gradient of
    0 at either point have no direction and are left out, as in the published code; so are those where one is so small beside
    the other that its direction is rounding (FARE's first step, where student and original agree).
    """
    drawn_BCHW = noise(image_BCHW, generator, "uniform")
    shifted_BCHW = image_BCHW + eps * (2 * drawn_BCHW - 1)
    climb = find_loss(loss)

    def gradient(point_BCHW: Tensor) -> Tensor:
        pixels = point_BCHW.detach().requires_grad_(True)
        value = climb(logits_fn(pixels), target_B).sum()
        return torch.autograd.grad(value, pixels, create_graph=True)[0].float().flatten(1)

    with sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated twice
        first_BP, second_BP = gradient(image_BCHW), gradient(shifted_BCHW)
    length_2B = torch.stack([first_BP.detach().norm(dim=1), second_BP.detach().norm(dim=1)])
    usable_B = length_2B.amin(0) > VANISHING * length_2B.amax(0)
    share = batch_share(int(usable_B.sum()), len(usable_B))  # every process asks, also one whose images are all left out
    if not bool(usable_B.any()):
        return first_BP.sum() * 0.0
    # (29) GradAlign: 1 - cos( grad l(x), grad l(x + eta) ), eta ~ U(-eps, eps), mean over the batch
    return share * (1 - F.cosine_similarity(first_BP[usable_B], second_BP[usable_B], dim=1, eps=1e-20)).sum()
