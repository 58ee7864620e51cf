"""Every attack says what is wrong with its input, and none minds where it is called."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tima.attacks import ATTACKS
from tima.errors import DataError, EpsError, ModelError, RecipeError

SHORT: dict[str, dict[str, Any]] = {
    "fgsm": {},
    "pgd": {"steps": 2},
    "mi-fgsm": {"steps": 2},
    "cw": {"steps": 2, "searches": 1, "norm": "l_2"},
    "apgd": {"steps": 2},
    "fab": {"steps": 2},
    "square": {"queries": 4},
    "noise": {"tries": 2},
    "transfer": {"steps": 2},
    "autoattack": {"steps": 2, "queries": 4},
}
EVERY = pytest.mark.parametrize("name", list(ATTACKS))


class Linear(nn.Module):
    """Ten classes of 3 x 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(192, 10, generator=torch.Generator().manual_seed(0)) / 2)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        return image_BCHW.flatten(1) @ self.weight


MODEL = Linear()
IMAGE = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABEL = MODEL(IMAGE).argmax(1)


def attacked(name: str, image: Any = IMAGE, label: Any = LABEL, eps: Any = 0.05, model: Any = MODEL, **params: Any) -> Tensor:
    source = {"source": model} if name == "transfer" else {}
    return ATTACKS[name](model, image, label, eps, **{**SHORT[name], **source, **params})


def test_no_attack_is_left_out() -> None:
    assert set(SHORT) == set(ATTACKS)


@EVERY
def test_runs_where_gradients_are_switched_off(name: str) -> None:
    with torch.no_grad():
        inside = attacked(name, generator=[torch.Generator().manual_seed(i) for i in range(4)])
    assert torch.equal(inside, attacked(name, generator=[torch.Generator().manual_seed(i) for i in range(4)]))


@EVERY
def test_one_image_and_none(name: str) -> None:
    assert attacked(name, IMAGE[:1], LABEL[:1]).shape == (1, 3, 8, 8)
    none = attacked(name, IMAGE[:0], LABEL[:0], generator=[], batch_size=2, stop_when_broken=True)
    assert none.shape == (0, 3, 8, 8) and none.dtype == torch.float32


@EVERY
def test_float64_images_give_fp32_within_eps(name: str) -> None:
    found = attacked(name, IMAGE.double(), norm="l_2", eps=0.3)
    assert found.dtype == torch.float32
    assert bool(((found - IMAGE).flatten(1).norm(dim=1) <= 0.3).all())


@EVERY
@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"label": LABEL.int()}, "int64"),
        ({"label": LABEL.float()}, "int64"),
        ({"label": LABEL.tolist()}, "torch tensors"),
        ({"image": IMAGE.numpy()}, "torch tensors"),
        ({"start_BCHW": IMAGE * torch.nan}, "NaN or infinite pixels"),
    ],
)
def test_refuses_data(name: str, what: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        attacked(name, **what)


@EVERY
@pytest.mark.parametrize(("eps", "says"), [("4/255", "parse_eps"), (None, "parse_eps"), (float("nan"), "not above 0")])
def test_refuses_eps_that_is_no_number(name: str, eps: Any, says: str) -> None:
    with pytest.raises(EpsError, match=says):
        attacked(name, eps=eps)


@EVERY
def test_refuses_an_infinite_eps(name: str) -> None:
    with pytest.raises(EpsError, match="infinite"):
        attacked(name, eps=float("inf"), norm="l_2")


@EVERY
def test_refuses_a_model_without_rows_of_logits(name: str) -> None:
    with pytest.raises(ModelError, match="row of logits"):
        attacked(name, model=lambda image_BCHW: MODEL(image_BCHW)[:, 0])


@EVERY
def test_refuses_a_model_of_nan(name: str) -> None:
    with pytest.raises(ModelError, match="not finite"):
        attacked(name, model=lambda image_BCHW: MODEL(image_BCHW) * torch.nan)


@pytest.mark.parametrize("name", ["noise", "square", "fab", "cw", "transfer", "autoattack"])
def test_attacks_that_need_a_class_refuse_soft_labels(name: str) -> None:
    with pytest.raises(DataError, match="class numbers"):
        attacked(name, label=torch.rand(4, 10))


COUNTS = {
    "pgd": ["steps", "restarts", "batch_size"],
    "mi-fgsm": ["steps"],
    "apgd": ["steps", "eot_iter", "targets"],
    "fab": ["steps"],
    "cw": ["searches"],
    "square": ["queries", "restarts"],
    "noise": ["tries"],
}


@pytest.mark.parametrize(("name", "count"), [(name, count) for name, counts in COUNTS.items() for count in counts])
@pytest.mark.parametrize("value", [2.5, "2"])
def test_half_a_step_is_refused_and_never_waited_for(name: str, count: str, value: Any) -> None:
    with pytest.raises(RecipeError, match="whole numbers"):
        attacked(name, **{count: value})
