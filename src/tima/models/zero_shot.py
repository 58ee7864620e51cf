"""`ZeroShotClassifier`: a dual encoder and a list of class names make an ordinary image classifier.

Source: Radford et al. 2021, arXiv 2103.00020, section 3.1.4 (prompt ensembling in embedding space).
Shapes: `B` images, `C` classes, `T` templates, `D` embedding width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tima.data.image_set import DEFAULT_TEMPLATES, check_class_names, check_templates
from tima.errors import DataError
from tima.models.dual_encoder import DualEncoder


def prompts(class_names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All `C * T` prompts, class by class."""
    return [template.replace("{c}", name) for name in class_names for template in templates]


def encode_classes(
    model: DualEncoder, class_names: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES, chunk: int = 512
) -> Tensor:
    """Class embeddings `text_CD`: unit-norm mean over templates of the unit-norm prompt embeddings.

    Gradients flow into the text tower when they are enabled around the call.

    Raises:
        DataError: no class names or templates, or a template without `{c}`.
    """
    if isinstance(class_names, str) or not class_names:
        raise DataError("encode_classes takes a list of class names, with at least one in it.")
    check_templates(templates, "encode_classes")
    texts = prompts(class_names, templates)
    parts = [model.encode_text(texts[i : i + chunk]) for i in range(0, len(texts), chunk)]
    text_CTD = torch.cat(parts).view(len(class_names), len(templates), -1)
    return F.normalize(text_CTD.mean(dim=1), dim=-1)


class ZeroShotClassifier(nn.Module):
    """Pixels in [0, 1] to logits `B x C`: a plain `nn.Module`, so that any attack library can attack it.

    The class embeddings are computed once and kept; call `refresh()` after the text tower has changed.
    Gradients reach the pixels. None reaches the weights of a loaded model: `load_model` hands it out frozen, and a
    trainer sets `requires_grad` on what it trains.

    Args:
        model: the dual encoder.
        class_names: readable names; no duplicates.
        templates: prompts with `{c}`; their embeddings are averaged.

    Raises:
        DataError: empty or duplicate class names, a template without `{c}`.
    """

    text_CD: Tensor

    def __init__(self, model: DualEncoder, class_names: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES) -> None:
        super().__init__()
        check_class_names(class_names, "ZeroShotClassifier")
        check_templates(templates, "ZeroShotClassifier")
        self.model, self.class_names, self.templates = model, list(class_names), list(templates)
        self.register_buffer("text_CD", torch.empty(0), persistent=False)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Encode the class texts again, without dropout whatever mode the model is in."""
        modules = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            self.text_CD = encode_classes(self.model, self.class_names, self.templates)
        finally:
            for module in modules:
                module.training = True

    def _repr_html_(self) -> str:
        from tima._notebook import classifier_html

        return classifier_html(self)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return self.model.logits(self.model.encode_image(image_BCHW), self.text_CD)
