"""Image tower on a random share of the patches: half the tokens, nearly twice the pictures an hour.

Source: FLIP, Li et al. 2023, arXiv 2212.00794. Shapes: `B` images, `N` patches, `K` patches kept, `D` embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.models import lean
from tima.models.hugging_face import HuggingFaceEncoder


def encode_patches(
    student: HuggingFaceEncoder,
    image_BCHW: Tensor,
    keep: float,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Unit-norm embeddings `B x D` from a random `keep` of each picture's patches (all of them at 1).

    The weights are arranged anew at every call, as they change with every step; gradients reach the model's own.

    Args:
        dtype: of the matrix products; the projection is always fp32, and in bf16 a pixel is two numbers (`models/lean.py`).
    """
    weights = lean.gather_weights(student, dtype)
    keep_BK = None
    if keep < 1:
        N = len(weights.position_NW) - 1
        order_BN = torch.rand(len(image_BCHW), N, generator=generator)
        keep_BK = order_BN.topk(max(1, round(keep * N)), dim=1).indices.to(image_BCHW.device)
    return F.normalize(lean.image_features(weights, student.prompted(image_BCHW), keep_BK), dim=-1)
