"""Many classes: sums over pairs in blocks, MHE from a sample, and a step that sees a sample of the classes.

Shapes: `B` images, `C` classes, `D` embedding width.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import build_tiny_clip, make_image_set
from torch import Tensor

from tima.class_sample import ClassSample, draw_classes
from tima.config import AttackSettings, TrainRecipe, train_recipe
from tima.distributed import Team
from tima.methods import Method, class_pairs, terms
from tima.methods.tecoa import TeCoA
from tima.methods.tima import Tima, TimaConfig
from tima.objective import Objective
from tima.train import train
from tima.train_batch import stream

NAMES = ["cat", "dog", "tree", "boat", "apple", "guitar", "red", "small", "a cat", "a dog", "a tree", "a boat"]


def texts(n: int, seed: int, width: int = 6) -> Tensor:
    """Crowded around one direction, as CLIP's texts are."""
    raw = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.7
    return F.normalize(raw, dim=-1)


def with_gradient(term: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    first = inputs[0].clone().requires_grad_()
    value = term(first, *inputs[1:])
    return value.detach(), torch.autograd.grad(value, first)[0]


# pairs in blocks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_mhe_in_blocks_is_mhe(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    text = texts(23, 0)
    distance = torch.cdist(text, text).numpy()
    expected = float(np.mean([1 / (1 + distance[j, k] ** alpha) for j in range(23) for k in range(23) if j != k]))
    whole, gradient = with_gradient(lambda t: terms.mhe(t, alpha), text)
    monkeypatch.setattr(class_pairs, "BLOCK", 4 * 23)
    assert len(list(class_pairs.blocks(23, 23))) == 6
    in_blocks, gradient_in_blocks = with_gradient(lambda t: terms.mhe(t, alpha), text)
    assert whole.item() == pytest.approx(expected, rel=1e-12) and in_blocks.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient_in_blocks, gradient, rtol=1e-10, atol=1e-12)


def test_limits_of_the_margin_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = texts(23, 1)
    cosine = [float(text[j] @ text[k]) for j in range(23) for k in range(23) if j != k]
    monkeypatch.setattr(class_pairs, "BLOCK", 3 * 23)
    assert terms.asam_limits(text) == pytest.approx((min(cosine), max(cosine)), rel=1e-12)
    expected = [math.sqrt(2 - 2 * x) for x in (max(cosine), min(cosine))]
    assert terms.asam_limits(text, "distance") == pytest.approx(expected, rel=1e-9)
    assert terms.tam_margin(text, 0.3).amax().item() == pytest.approx(0.3, rel=1e-12)


@pytest.mark.parametrize("n_classes", [4, 23])  # fewer than the embedding is wide, and more
def test_consistency_from_moments_is_pearson(n_classes: int) -> None:
    text, text0 = texts(n_classes, 2), texts(n_classes, 3)

    def by_pairs(t: Tensor, t0: Tensor) -> Tensor:
        j, k = torch.triu_indices(len(t), len(t), 1)
        return 1 - torch.corrcoef(torch.stack([(t[j] * t[k]).sum(1), (t0[j] * t0[k]).sum(1)]))[0, 1]

    value, gradient = with_gradient(terms.semantic_consistency, text, text0)
    expected, expected_gradient = with_gradient(by_pairs, text, text0)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-8, atol=1e-11)
    narrow = terms.semantic_consistency(text.float(), text0.float())
    assert narrow.dtype == torch.float32 and narrow.item() == pytest.approx(expected.item(), abs=1e-5)


def test_crowded_texts_keep_their_correlation_in_fp32() -> None:
    """Cosines of 0.9999 with a spread of 1e-5: the difference of the sums is in the fifth digit of each."""
    base = torch.ones(1, 8)
    text, text0 = (F.normalize(base + 0.01 * torch.randn(40, 8), dim=-1) for _ in range(2))
    j, k = torch.triu_indices(40, 40, 1)
    pairs = torch.stack([(t.double()[j] * t.double()[k]).sum(1) for t in (text, text0)])
    expected = 1 - torch.corrcoef(pairs)[0, 1].item()
    assert terms.semantic_consistency(text, text0).item() == pytest.approx(expected, abs=1e-4)


def test_no_term_holds_a_square_of_the_classes() -> None:
    """Largest tensor that TIMA's terms make at 5,000 classes: far from 25 million entries."""
    largest = 0

    def seen(tensor: Tensor) -> Tensor:  # what autograd keeps
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    text = F.normalize(torch.randn(5000, 8), dim=-1).requires_grad_()
    text0, label, image = text.detach().roll(1, 1), torch.arange(4), F.normalize(torch.randn(4, 8), dim=-1)
    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        total = terms.mhe(text) + terms.semantic_consistency(text, text0) + terms.iakd(image, text, text0, 20.0)
        total = total + terms.margin_ce(image, text, label, 20.0, terms.asam_margin(text0, 0.1, 0.1, label_B=label))
        total = total + terms.margin_ce(image, text, label, 20.0, terms.tam_margin(text.detach(), 0.1, label))
    total.backward()
    assert largest <= class_pairs.BLOCK and text.grad is not None and torch.isfinite(text.grad).all()


# MHE from some columns ---------------------------------------------------------------------------------------------


def test_mhe_from_some_columns_is_right_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """All subsets of two out of six, with equal weight: exactly the whole mean and its gradient."""
    text = texts(6, 4)
    monkeypatch.setattr(class_pairs, "BLOCK", 4)  # blocks of two rows here, too
    subsets = [torch.tensor([j, k]) for j in range(6) for k in range(j + 1, 6)]
    found = [with_gradient(lambda t, s=s: terms.mhe(t, 2.0, s), text) for s in subsets]  # type: ignore[misc]
    whole, gradient = with_gradient(terms.mhe, text)
    torch.testing.assert_close(torch.stack([value for value, _ in found]).mean(), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([g for _, g in found]).mean(0), gradient, rtol=1e-9, atol=1e-12)
    assert len({round(float(value), 9) for value, _ in found}) > 1


# a sample of the classes -------------------------------------------------------------------------------------------


def test_the_sample_holds_the_labels_and_others() -> None:
    label = torch.tensor([7, 3, 7, 90])
    sample = draw_classes(100, label, 10, seed=5, correct=True)
    assert sample.class_M is not None and sample.log_weight_M is not None
    assert len(sample.class_M) == 10 and torch.equal(sample.class_M, sample.class_M.unique())
    assert torch.equal(sample.class_M[sample.renumber(label)], label)
    present = torch.isin(sample.class_M, label)
    assert int(present.sum()) == 3 and not sample.log_weight_M[present].any()
    assert sample.log_weight_M[~present].tolist() == pytest.approx([math.log(97 / 7)] * 7)
    assert torch.equal(draw_classes(100, label, 10, 5, correct=False).class_M, sample.class_M)  # type: ignore[arg-type]
    assert not torch.equal(draw_classes(100, label, 10, 6, correct=True).class_M, sample.class_M)  # type: ignore[arg-type]


def test_the_sample_draws_evenly() -> None:
    label, count = torch.tensor([0, 1]), torch.zeros(8)
    for seed in range(600):
        count[draw_classes(8, label, 5, seed, correct=False).class_M] += 1
    assert count[:2].tolist() == [600, 600]
    assert ((count[2:] - 300).abs() < 5 * math.sqrt(600 * 0.25)).all()


@pytest.mark.parametrize("size", [None, 4, 9])
def test_a_list_that_is_short_enough_stays_whole(size: int | None) -> None:
    sample = draw_classes(4, torch.tensor([1, 2]), size, 3, correct=True)
    assert sample.class_M is None and sample.log_weight_M is None and sample.seed == 3
    assert torch.equal(sample.renumber(torch.tensor([1, 2])), torch.tensor([1, 2]))


def test_more_labels_than_the_sample_may_have() -> None:
    sample = draw_classes(9, torch.tensor([1, 2, 5, 8]), 3, 0, correct=True)
    assert sample.class_M is not None and sample.class_M.tolist() == [1, 2, 5, 8] and sample.log_weight_M is None


def test_weighing_makes_the_softmax_sum_right_on_average() -> None:
    """Over all ways to draw one of three absent classes: mean of the weighted sum of exponentials, by hand."""
    logit = torch.tensor([0.5, -1.0, 2.0, 0.3])  # class 0 is the label
    whole = logit.exp().sum()
    sums = []
    for seed in range(40):
        sample = draw_classes(4, torch.tensor([0]), 2, seed, correct=True)
        assert sample.class_M is not None and sample.log_weight_M is not None
        sums.append((int(sample.class_M[1]), float((logit[sample.class_M] + sample.log_weight_M).exp().sum())))
    by_class = dict(sums)
    assert set(by_class) == {1, 2, 3}
    assert sum(by_class.values()) / 3 == pytest.approx(float(whole), rel=1e-6)


# a training step ---------------------------------------------------------------------------------------------------


def objective(tokenizer: Any, method: Method, names: list[str] = NAMES) -> Objective:
    student = build_tiny_clip(tokenizer).requires_grad_(False)
    for p in method.trainable(student).values():
        p.requires_grad_(True)
    teacher = build_tiny_clip(tokenizer).requires_grad_(False) if method.needs_teacher else None
    return Objective(student, teacher, method, names, ["a photo of a {c}."], AttackSettings(steps=1))


def run(objective: Objective, classes: ClassSample | None, label: Tensor) -> tuple[dict[str, float], Tensor, Tensor]:
    image = torch.rand(len(label), 3, 16, 16, generator=torch.Generator().manual_seed(1))
    objective.zero_grad()
    found = objective(image, label, 4 / 255, 4 / 255, torch.Generator().manual_seed(2), classes=classes)
    total = torch.stack(list(found.terms.values())).sum()
    total.backward()
    grads = [p.grad.flatten() for p in objective.parameters() if p.grad is not None]
    assert found.adv_BCHW is not None
    return {name: float(term.detach()) for name, term in found.terms.items()}, torch.cat(grads), found.adv_BCHW


LABEL = torch.tensor([9, 1, 9, 4])


def test_a_sample_is_a_run_on_those_classes_but_for_the_margins_scale(tokenizer: Any) -> None:
    sample = ClassSample(0, torch.tensor([1, 4, 6, 9, 11]))
    assert sample.class_M is not None
    some = objective(tokenizer, Tima(TimaConfig(kappa=0.2)))
    short = objective(tokenizer, Tima(TimaConfig(kappa=0.2)), [NAMES[i] for i in sample.class_M.tolist()])
    short.method.limits = some.method.limits  # type: ignore[attr-defined]  # of the whole list in both
    assert terms.asam_limits(short.text0_CD) != some.method.limits  # type: ignore[attr-defined]
    found, gradient, adv = run(some, sample, LABEL)
    expected, expected_gradient, expected_adv = run(short, None, sample.renumber(LABEL))
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(adv, expected_adv, rtol=0, atol=1e-6)


def test_weights_reach_every_softmax_and_the_attack(tokenizer: Any) -> None:
    """A weight of minus infinity, nearly, takes a class out of every term that is a softmax."""
    sample = ClassSample(0, torch.tensor([1, 4, 6, 9]))
    without = ClassSample(0, torch.tensor([1, 4, 6, 9, 11]), torch.tensor([0.0, 0, 0, 0, -1e4]))
    method = Tima(TimaConfig(w_mhe=0, w_sc=0, w_takd_clean=1, kappa=0.2))
    one = objective(tokenizer, method)
    found, gradient, adv = run(one, without, LABEL)
    expected, expected_gradient, expected_adv = run(one, sample, LABEL)
    assert set(found) == {"tam", "takd", "takd_clean", "iakd"} and found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(adv, expected_adv, rtol=0, atol=1e-6)


def test_frozen_texts_are_never_sampled(tokenizer: Any) -> None:
    one = objective(tokenizer, TeCoA())
    assert not one.samples_classes
    found, gradient, _ = run(one, ClassSample(0, torch.tensor([1, 4, 9])), LABEL)
    expected, expected_gradient, _ = run(one, None, LABEL)
    assert found == expected and torch.equal(gradient, expected_gradient)


def test_texts_in_pieces_have_the_same_gradient(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = objective(tokenizer, Tima())
    found, gradient, _ = run(one, None, LABEL)
    calls: list[int] = []
    import tima.objective as module

    real = module.encode_classes
    monkeypatch.setattr(module, "PROMPTS", 5)
    monkeypatch.setattr(module, "encode_classes", lambda m, names, t: (calls.append(len(names)), real(m, names, t))[1])
    in_pieces, gradient_in_pieces, _ = run(one, None, LABEL)
    assert sorted(calls) == [2, 2, 5, 5, 5, 5]  # each piece twice: forward, and again for the backward pass
    assert in_pieces == pytest.approx(found, rel=1e-5, abs=1e-7)  # a KL of what has not moved yet is rounding alone
    torch.testing.assert_close(gradient_in_pieces, gradient, rtol=1e-4, atol=1e-5)


# the trainer -------------------------------------------------------------------------------------------------------


def test_every_process_draws_the_same_classes_for_all_labels_of_the_step() -> None:
    images = make_image_set(n=48, classes=8)
    settings = TrainRecipe(batch_size=6, max_classes=5, steps=4, seed=3)
    silent = SimpleNamespace(bad=lambda images: None)

    def drawn(rank: int, world: int, first: int = 0) -> list[tuple[Tensor, ClassSample]]:
        team = Team(rank, world)
        steps = stream(images, settings, False, first, team, silent)  # type: ignore[arg-type]
        return [(batch.label_B, batch.classes) for _, batch in steps]  # type: ignore[misc]

    alone, pair = drawn(0, 1), (drawn(0, 2), drawn(1, 2))
    for step, (label_B, classes) in enumerate(alone):
        assert classes.class_M is not None and len(classes.class_M) == max(5, len(label_B.unique()))
        assert torch.isin(label_B, classes.class_M).all()
        for rank in (0, 1):
            assert torch.equal(pair[rank][step][1].class_M, classes.class_M)  # type: ignore[arg-type]
    assert torch.equal(drawn(0, 1, first=2)[1][1].class_M, alone[3][1].class_M)  # type: ignore[arg-type]
    assert len({tuple(c.class_M.tolist()) for _, c in alone}) > 1  # type: ignore[union-attr]


def test_a_run_with_a_sample_of_the_classes(tokenizer: Any, tmp_path: Path) -> None:
    build_tiny_clip(tokenizer).save_pretrained(tmp_path / "model")
    images = make_image_set(n=64, classes=8)
    settings = TrainRecipe(
        model=str(tmp_path / "model"), steps=2, batch_size=4, accumulate=2, max_classes=5, val_every=2, val_samples=8,
        val_attack_steps=1, held_out_classes=0.25, attack=AttackSettings(steps=1), method_config={"mhe_classes": 3},
    )  # fmt: skip
    train(settings, tmp_path / "run", progress=False, images=images)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["step"] == 2 and all(math.isfinite(value) for value in line["terms"].values())
    assert train_recipe(tmp_path / "run").max_classes == 5
