"""How a run's class texts lie, before and after: what the text half of TIMA acts on. Shapes: `C` classes, `D` width."""

from collections.abc import Sequence

import torch

from tima.methods.terms import mhe, semantic_consistency
from tima.models import DualEncoder, encode_classes


def text_spread(
    tuned: DualEncoder, original: DualEncoder, class_names: Sequence[str], templates: Sequence[str]
) -> dict[str, float]:
    """Energy (formula 2 of docs/method.md) and mean cosine of the class texts, of the tuned and of the original model, and
    Pearson's correlation of the two models' cosines (formula 9), which is 1 where the semantic structure survived.
    """
    with torch.no_grad():
        text_CD, text0_CD = (encode_classes(m, list(class_names), list(templates)).double().cpu() for m in (tuned, original))
        return {
            "energy": float(mhe(text_CD)),
            "energy_before": float(mhe(text0_CD)),
            "cosine": _mean_cosine(text_CD),
            "cosine_before": _mean_cosine(text0_CD),
            "structure": 1 - float(semantic_consistency(text_CD, text0_CD)),
        }


def _mean_cosine(text_CD: torch.Tensor) -> float:
    c = len(text_CD)
    return float((text_CD @ text_CD.T).triu(1).sum() / max(1, c * (c - 1) / 2))
