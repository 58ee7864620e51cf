"""When the exact model is asked before an image counts as broken."""

import math

import pytest
import torch
from torch import Tensor

from tima.attacks import CountedModel
from tima.attacks._broken import misclassified
from tima.models import ZeroShotClassifier
from tima.models.fast import attack_model
from tima.models.hugging_face import HuggingFaceEncoder


class Rough:
    """Logits are the first pixels; the exact ones differ in the second image, whose classes lie close together."""

    def __init__(self, tolerance: float | None) -> None:
        self.asked = 0
        if tolerance is not None:
            self.tolerance = tolerance

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.flatten(1)[:, :3]

    def exact(self, image_BCHW: Tensor) -> Tensor:
        self.asked += len(image_BCHW)
        logits_BC = self(image_BCHW)
        close_B = (logits_BC[:, 0] - logits_BC[:, 1]).abs() < 0.1
        return torch.where(close_B[:, None], logits_BC.flip(1), logits_BC)


@pytest.mark.parametrize(("tolerance", "asked"), [(None, 2), (math.inf, 2), (0.06, 1), (0.01, 0)])
@pytest.mark.parametrize("counted", [False, True])
def test_only_answers_that_rounding_could_change_are_asked_again(tolerance: float | None, asked: int, counted: bool) -> None:
    image = torch.tensor([[0.9, 0.1, 0.0], [0.50, 0.45, 0.6], [0.2, 0.8, 0.0]])[:, :, None, None]
    rough = Rough(tolerance)
    model = CountedModel(rough) if counted else rough
    label = torch.tensor([1, 0, 1])  # the model gets the first two wrong, the second by 0.1 only
    broken = misclassified(model, image, rough(image), label, targeted=False)
    assert rough.asked == asked
    assert broken.tolist() == [True, asked == 0, False]
    assert not counted or model.forwards == asked


def test_fp32_answers_for_itself_and_bf16_does_not(tiny_clip: HuggingFaceEncoder) -> None:
    classifier = ZeroShotClassifier(tiny_clip, ["cat", "dog", "tree"])
    pixels = torch.rand(16, 3, 16, 16)
    exact, scale = classifier(pixels), float(tiny_clip.logit_scale.detach())
    fp32, bf16 = attack_model(classifier), attack_model(classifier, "bf16")
    assert 10 * float((fp32(pixels) - exact).abs().max().detach()) < fp32.tolerance == pytest.approx(1e-4 * scale)
    assert bf16.tolerance == CountedModel(bf16).tolerance == math.inf
    assert CountedModel(fp32).tolerance == fp32.tolerance


def test_where_torch_may_round_fp32_products_nothing_is_promised(tiny_clip: HuggingFaceEncoder) -> None:
    fp32, before = attack_model(ZeroShotClassifier(tiny_clip, ["cat", "dog"])), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")  # bf16 products on a CPU, TF32 on a GPU
        assert fp32.tolerance == math.inf
    finally:
        torch.set_float32_matmul_precision(before)
    assert fp32.tolerance < math.inf
