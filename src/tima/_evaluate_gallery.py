"""The gallery in a result's sidecar: a few images with what each eps made of them, for people to look at.

Shapes: `N` images evaluated, `B` images of a batch, `C` channels or classes, `H, W` pixels, `E` eps, `G` gallery images.
Row 0 of `gallery_prediction` and `gallery_confidence` is the clean image, row `e + 1` eps number `e`.
"""

import torch
from torch import Tensor


def choose_gallery(total: int, count: int, seed: int) -> Tensor:
    """Positions of `count` images drawn with `seed`: the same for every model, so that a report can put them side by side."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]


def open_gallery(arrays: dict[str, Tensor], chosen_G: Tensor, image_GCHW: Tensor, logits_GC: Tensor, steps: int) -> None:
    """Make room for `steps` adversarial versions of the images chosen; each is the clean image until an attack finds one."""
    confidence_G = logits_GC.softmax(1).amax(1).cpu()
    arrays["gallery_index"] = chosen_G
    arrays["gallery_label"] = arrays["label_N"][chosen_G]
    arrays["gallery_clean"] = (image_GCHW * 255).round().to(torch.uint8).cpu()
    arrays["gallery_adv"] = image_GCHW.half().cpu().repeat(steps, 1, 1, 1, 1)
    arrays["gallery_prediction"] = arrays["clean_prediction_N"][chosen_G].repeat(steps + 1, 1)
    arrays["gallery_confidence"] = confidence_G.repeat(steps + 1, 1)


def carry_gallery(arrays: dict[str, Tensor], step: int) -> None:
    """Start eps number `step` with what the smaller eps found: images broken already are not attacked again."""
    if "gallery_adv" not in arrays:
        return
    if step > 0:
        arrays["gallery_adv"][step] = arrays["gallery_adv"][step - 1]
    for name in ("gallery_prediction", "gallery_confidence"):
        arrays[name][step + 1] = arrays[name][step]


def fill_gallery(arrays: dict[str, Tensor], step: int, position_B: Tensor, adv_BCHW: Tensor, logits_BC: Tensor) -> None:
    """Put the gallery images among those just attacked (at positions `position_B` of `N`) into their places."""
    if "gallery_adv" not in arrays:
        return
    row_of = {position: row for row, position in enumerate(position_B.tolist())}
    for g, position in enumerate(arrays["gallery_index"].tolist()):
        if (row := row_of.get(position)) is not None:
            confidence, prediction = logits_BC[row].softmax(0).max(0)
            arrays["gallery_adv"][step, g] = adv_BCHW[row].half().cpu()
            arrays["gallery_prediction"][step + 1, g] = prediction.cpu()
            arrays["gallery_confidence"][step + 1, g] = confidence.cpu()
