"""`tima-plus`: TIMA and a pull of our own. Shapes: `B` images, `D` embedding width."""

import pytest
import torch
from test_methods import make_step

from tima.errors import TrainingError
from tima.methods import find_method, terms
from tima.methods.tima import Tima, TimaConfig
from tima.methods.tima_plus import TimaPlus, TimaPlusConfig


def test_without_the_anchor_it_is_tima_bit_for_bit() -> None:
    plain, plus = Tima(TimaConfig()), TimaPlus(TimaPlusConfig(w_anchor=0))
    ours, theirs = plus.losses(make_step()), plain.losses(make_step())
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_anchor_by_hand() -> None:
    # squared distances 25 and 4, squared lengths 9 and 1: 29 / 10
    image_BD, teacher_BD = torch.tensor([[3.0, 4.0], [0.0, 3.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    teacher_BD[0] = torch.tensor([3.0, 0.0])
    image_BD[0] = torch.tensor([6.0, 4.0])
    assert float(terms.relative_feature_distance(image_BD, teacher_BD)) == pytest.approx(29 / 10)


def test_one_weight_fits_towers_of_any_scale() -> None:
    image_BD, teacher_BD = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    small = terms.relative_feature_distance(image_BD, teacher_BD)
    assert torch.allclose(terms.relative_feature_distance(25 * image_BD, 25 * teacher_BD), small)
    assert not torch.allclose(terms.feature_distance(25 * image_BD, 25 * teacher_BD), small)


def test_the_anchor_is_weighted_and_trains_the_student_alone() -> None:
    step = make_step()
    found = TimaPlus(TimaPlusConfig(w_anchor=3)).losses(step)
    assert set(found) - set(Tima().losses(make_step())) == {"anchor"}
    assert torch.allclose(found["anchor"], 3 * terms.relative_feature_distance(step.adv_raw_BD, step.teacher_raw_BD))
    weight, teacher = step.student.weight, step.teacher.weight  # type: ignore[union-attr]
    assert torch.autograd.grad(found["anchor"], weight, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(found["anchor"], [teacher, step.text_CD], allow_unused=True) == (None, None)


def test_it_needs_a_teacher_for_the_anchor_alone() -> None:
    off = {"w_takd": 0.0, "w_iakd": 0.0}
    assert TimaPlus(TimaPlusConfig(**off)).needs_teacher
    assert not TimaPlus(TimaPlusConfig(**off, w_anchor=0)).needs_teacher
    with pytest.raises(TrainingError, match="no teacher"):
        TimaPlus(TimaPlusConfig(**off)).losses(make_step(teacher=False))
    assert find_method("tima-plus") is TimaPlus
