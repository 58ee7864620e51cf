"""Image tower on a random share of the patches: half the tokens, nearly twice the pictures an hour.

Source: FLIP, Li et al. 2023, arXiv 2212.00794. Shapes: `B` images, `N` patches, `K` patches kept, `D` embedding width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.models.hugging_face import HuggingFaceEncoder


def encode_patches(student: HuggingFaceEncoder, image_BCHW: Tensor, keep: float, generator: torch.Generator) -> Tensor:
    """Unit-norm embeddings `B x D` from a random `keep` of each picture's patches (all of them at 1)."""
    if keep >= 1:
        return student.encode_image(image_BCHW)
    clip = student.backbone
    tower = clip.vision_model
    hidden_BND = tower.embeddings((image_BCHW - student.mean_C11) / student.std_C11)
    B, N = len(hidden_BND), hidden_BND.shape[1] - 1
    chosen_BK = torch.rand(B, N, generator=generator).to(hidden_BND.device).topk(max(1, round(keep * N)), dim=1).indices + 1
    index_BK = torch.cat([torch.zeros(B, 1, dtype=torch.long, device=chosen_BK.device), chosen_BK], dim=1)
    hidden_BKD = hidden_BND.gather(1, index_BK[:, :, None].expand(-1, -1, hidden_BND.shape[-1]))
    hidden_BKD = tower.encoder(inputs_embeds=tower.pre_layrnorm(hidden_BKD)).last_hidden_state
    return F.normalize(clip.visual_projection(tower.post_layernorm(hidden_BKD[:, 0])).float(), dim=-1)
