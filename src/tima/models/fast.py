"""`attack_model`: the classifier as an attack should ask it, faster and where wanted in bf16, with the exact one beside it.

An attack asks for logits and for gradients of pixels, never of weights, thousands of times. For CLIP's towers the image tower
then runs as `lean.py` arranges it; for other towers bf16 is a cast copy with plain attention (`fast_shadow.py`). Texts
are encoded already. What an attack finds in bf16 counts only when `exact` agrees: the attacks ask it before they call an image
broken, and the evaluation judges with it.

Shapes: `B` images, `C` channels or classes, `H, W` pixels, `D` embedding width.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tima.errors import ModelError
from tima.models import lean
from tima.models.fast_compile import CompiledTower
from tima.models.fast_shadow import ShadowTower
from tima.models.zero_shot import ZeroShotClassifier

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
Tower = Callable[[Tensor], Tensor]


def attack_model(classifier: ZeroShotClassifier, precision: str = "fp32", compile: bool = False) -> "AttackModel":
    """A callable from fp32 pixels in [0, 1] to fp32 logits, for attacks.

    Args:
        classifier: the model under attack. Its weights may change later: they are taken over at the next call.
        precision: `fp32` gives the classifier's own logits up to rounding; `bf16` computes the image tower in bf16.
        compile: let torch.compile fuse the tower; the first calls take some 10 to 60 s. Where no compiler works, the tower runs
            uncompiled and `notes` says so.

    Raises:
        ModelError: a precision that does not exist.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"There is no attack precision '{precision}'. Known are: {', '.join(PRECISIONS)}.")
    return AttackModel(classifier, PRECISIONS[precision], compile)


class AttackModel:
    """What `attack_model` returns.

    Attributes:
        classifier: the model it stands for.
        kind: `lean`, `shadow` (a bf16 copy of the library's tower) or `library` (the library's tower in fp32).
        notes: what could not be done as asked, for records.
    """

    def __init__(self, classifier: ZeroShotClassifier, dtype: torch.dtype, compile: bool) -> None:
        self.classifier, self.dtype = classifier, dtype
        self.notes: list[str] = []
        model = classifier.model
        self.kind = "lean" if lean.supports(model) else "library" if dtype == torch.float32 else "shadow"
        self._lean: lean.KeptWeights | None = None
        self._shadow: ShadowTower | None = None
        self._stamp: tuple[int, ...] = ()
        self._compiled = CompiledTower(self.notes) if compile and self.kind == "lean" else None
        if compile and self._compiled is None:
            self.notes.append(f"not compiled: only CLIP's image towers are, and '{model.name}' has another")

    def refresh(self) -> None:
        """Take over the classifier's weights. Calls do so themselves when torch knows of a change; `p.data` hides one."""
        model = self.classifier.model
        if self.kind == "lean":
            self._lean = lean.KeptWeights(model, self.dtype)
        elif self.kind == "shadow":
            with torch.inference_mode(False), torch.no_grad():
                self._shadow = ShadowTower(model, self.dtype, self.notes)
        self._stamp = lean.weights_stamp(model)

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        model = self.classifier.model
        model._check_pixels(image_BCHW)
        if self.kind == "library":
            return self.exact(image_BCHW)
        if self._stamp != lean.weights_stamp(model):
            self.refresh()
        with torch.autocast(image_BCHW.device.type, enabled=False):
            image_BD = F.normalize(self._features(image_BCHW.float()).float(), dim=-1)
            # as DualEncoder.logits, but no gradient reaches the scale and bias either
            logits_BC = model.logit_scale.detach() * (image_BD @ self.classifier.text_CD.detach().T)
            return logits_BC if model.logit_bias is None else logits_BC + model.logit_bias.detach()

    @property
    def tolerance(self) -> float:
        """How far logits may be from `exact`'s: a rounding of the cosines in fp32, ten times what was ever seen. Nothing is
        promised in bf16, nor where torch may round fp32 products (TF32, `set_float32_matmul_precision`)."""
        rounds = torch.get_float32_matmul_precision() != "highest"
        rounds = rounds or (self.classifier.text_CD.is_cuda and torch.backends.cudnn.allow_tf32)
        scale = float(self.classifier.model.logit_scale.detach())
        return math.inf if rounds or self.dtype != torch.float32 else 1e-4 * scale

    def exact(self, image_BCHW: Tensor) -> Tensor:
        """The classifier itself in fp32, through its library, whatever the surroundings have switched on."""
        model = self.classifier.model
        before = model.use_lean(None)
        try:
            with torch.autocast(image_BCHW.device.type, enabled=False):
                return self.classifier(image_BCHW)
        finally:
            if before is not None:
                model.use_lean(before)

    def _features(self, image_BCHW: Tensor) -> Tensor:
        image_BCHW = self.classifier.model.prompted(image_BCHW)
        if self._shadow is not None:
            return self._shadow(image_BCHW)
        assert self._lean is not None
        weights = self._lean.weights
        return lean.image_features(weights, image_BCHW) if self._compiled is None else self._compiled(weights, image_BCHW)
