"""The evaluation: exact counts, the order of truth, and the same answer however it is cut up or interrupted."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_clip, make_image_set
from evaluating import agreeing_set, counts, protocol_for

from tima.attacks import CountedModel, Stage, pgd
from tima.errors import DataError, ModelError, RecipeError, ResultError
from tima.evaluate import evaluate, evaluate_classifier, weights_sha256
from tima.models import ZeroShotClassifier
from tima.models.hugging_face import HuggingFaceEncoder
from tima.results import load_sidecar, read_result, result_path


def test_counts_are_exact_and_the_order_of_truth_holds_for_each_image(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data, protocol = agreeing_set(tiny_clip), protocol_for()
    result = evaluate(tiny_clip, data, protocol, out=tmp_path, batch_size=7, progress=False)
    path = result_path(tmp_path, "toy", protocol)
    arrays = load_sidecar(path)
    assert read_result(path) == result
    assert result.complete
    assert (result.n, result.clean.n, result.clean.correct) == (25, 25, 22)
    assert result.metrics.acc1 == pytest.approx(22 / 25)
    assert arrays["correct_N"].tolist() == [False] * 3 + [True] * 22
    assert arrays["index_N"].tolist() == list(range(25))
    assert arrays["robust_EN"].sum(1).tolist() == counts(result)[1:]
    assert 22 > counts(result)[1] > counts(result)[3]
    previous = arrays["correct_N"]
    for row, robust_N in zip(result.robust, arrays["robust_EN"], strict=True):
        assert not bool((robust_N & ~previous).any())
        assert row.already_broken == 25 - int(previous.sum())
        assert row.already_broken + sum(a.broken for a in row.attacks) + row.correct == 25
        previous = robust_N
    first = result.robust[0]
    assert 22 * 2 <= first.forwards <= 22 * 5
    assert 0 < first.backwards <= 22 * 4  # three steps, and the last look where its batch still climbs
    (attack,) = first.attacks
    assert (attack.attacked, attack.forwards, attack.backwards) == (22, first.forwards, first.backwards)
    assert attack.wall_time_s is not None and 0 < attack.wall_time_s <= first.wall_time_s
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, path.with_suffix(".safetensors").name]


def test_batch_size_does_not_matter(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data = agreeing_set(tiny_clip, 15)
    outcomes = []
    for size in (1, 7, 64):
        evaluate(tiny_clip, data, protocol_for(), out=tmp_path / str(size), batch_size=size, progress=False)
        outcomes.append(load_sidecar(result_path(tmp_path / str(size), "toy", protocol_for())))
    for other in outcomes[1:]:
        assert torch.equal(outcomes[0]["robust_EN"], other["robust_EN"])
        assert torch.equal(outcomes[0]["clean_prediction_N"], other["clean_prediction_N"])


def test_each_eps_starts_from_what_the_smaller_found(tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = agreeing_set(tiny_clip)
    calls: list[tuple[float, torch.Tensor, torch.Tensor | None, torch.Tensor]] = []

    def watched(model, image, label, eps, **words):  # type: ignore[no-untyped-def]
        found = pgd(model, image, label, eps, **words)
        calls.append((eps, image, words["start_BCHW"], found[model.logits_fn(found).argmax(1) == label]))
        return found

    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: [Stage("pgd", watched, {"steps": 3})])
    evaluate(tiny_clip, data, protocol_for(), batch_size=64, progress=False)
    assert [call[0] * 255 for call in calls] == pytest.approx([0.25, 1, 3])
    assert calls[0][2] is None
    for earlier, later in pairwise(calls):
        assert later[2] is not None
        assert len(earlier[3]) == len(later[1]) > 0
        torch.testing.assert_close(later[2], earlier[3], atol=1e-4, rtol=0)  # kept as float16


def test_a_finished_evaluation_is_returned_without_work(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, protocol = agreeing_set(tiny_clip), protocol_for()
    first = evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: [Stage("pgd", lambda *_, **__: pytest.fail("attacked"), {})])
    assert evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False) == first
    assert first.finished is not None and first.finished.endswith("+00:00")


def test_lost_perturbations_are_noticed(tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, protocol = agreeing_set(tiny_clip), protocol_for()

    def second_eps_fails(model, image, label, eps, **words):  # type: ignore[no-untyped-def]
        if eps == protocol.eps[1]:
            raise KeyboardInterrupt
        return pgd(model, image, label, eps, **words)

    with monkeypatch.context() as patch:
        patch.setattr("tima.evaluate.find_stages", lambda *_: [Stage("pgd", second_eps_fails, {})])
        with pytest.raises(KeyboardInterrupt):
            evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    (kept,) = (tmp_path / "results").glob(".*.work/0.*.block")
    whole = kept.read_bytes()
    for damage in (lambda: kept.write_bytes(whole[:-2]), kept.unlink):
        damage()
        with pytest.raises(ResultError, match=r"missing or damaged.*\n?.*Delete .*toy\.custom-\w+\.json to start it again"):
            evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    changed = replace(data, label_B=(data.label_B + 1) % 6)
    with pytest.raises(DataError, match="have changed"):
        evaluate(tiny_clip, changed, protocol, out=tmp_path, progress=False)


def test_a_result_of_something_else_is_not_overwritten(tiny_clip: HuggingFaceEncoder, tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data, protocol = agreeing_set(tiny_clip, 6), protocol_for().model_copy(update={"name": "mine"})
    evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    with pytest.raises(ResultError, match="another checkpoint"):
        evaluate(build_tiny_clip(tokenizer, seed=1), data, protocol, out=tmp_path, progress=False)
    with pytest.raises(ResultError, match="another protocol"):
        evaluate(tiny_clip, data, protocol.model_copy(update={"seed": 5}), out=tmp_path, progress=False)
    with pytest.raises(ResultError, match="another templates"):
        evaluate(tiny_clip, replace(data, templates=("art of {c}",)), protocol, out=tmp_path, progress=False)
    assert evaluate(tiny_clip, data, protocol_for(seed=5), out=tmp_path, progress=False).complete  # custom: a file of its own


def test_corrupt_images_are_listed_and_not_counted(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data = agreeing_set(tiny_clip, 12, wrong=0)
    read = data.read
    broken = replace(data, read=lambda i: b"no picture" if i in (2, 11) else read(i))
    result = evaluate(tiny_clip, broken, protocol_for(), out=tmp_path, batch_size=4, progress=False)
    assert [q.where for q in result.quarantine] == ["toy #2", "toy #11"]
    assert all("UnidentifiedImageError" in q.why for q in result.quarantine)
    assert (result.n, result.clean.correct) == (10, 10)
    assert load_sidecar(result_path(tmp_path, "toy", protocol_for()))["index_N"].tolist() == [0, 1, *range(3, 11)]
    with pytest.raises(DataError, match="none of the 12 images"):
        evaluate(tiny_clip, replace(data, read=lambda i: b""), protocol_for(), progress=False)


def test_samples_are_those_of_the_seed(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data = agreeing_set(tiny_clip)
    protocol = protocol_for(samples=9, seed=4, eps="1/255")
    result = evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    arrays = load_sidecar(result_path(tmp_path, "toy", protocol))
    assert result.n == 9
    drawn = data.sample(9, 4)
    assert torch.equal(arrays["label_N"], drawn.label_B)
    assert [data.where(i) for i in arrays["index_N"].tolist()] == [drawn.where(i) for i in range(9)]


def test_the_model_is_left_as_it_was(tiny_clip: HuggingFaceEncoder) -> None:
    tiny_clip.train()
    name, frozen = next(iter(tiny_clip.named_parameters()))
    frozen.requires_grad_(False)
    before, precision = weights_sha256(tiny_clip), torch.get_float32_matmul_precision()
    evaluate(tiny_clip, make_image_set(8), protocol_for(eps="1/255"), progress=False)
    assert tiny_clip.training
    assert weights_sha256(tiny_clip) == before
    assert torch.get_float32_matmul_precision() == precision
    assert [n for n, p in tiny_clip.named_parameters() if not p.requires_grad] == [name]
    assert all(p.grad is None for p in tiny_clip.parameters())


def test_hash_of_the_weights_sees_weights_and_normalisation(tiny_clip: HuggingFaceEncoder) -> None:
    hashes = {weights_sha256(tiny_clip)}
    tiny_clip.mean_C11[0] += 1e-3
    hashes.add(weights_sha256(tiny_clip))
    with torch.no_grad():
        next(tiny_clip.parameters()).flatten()[0] += 1e-3
    hashes.add(weights_sha256(tiny_clip))
    assert len(hashes) == 3


@pytest.mark.parametrize("classes", [2, 5])
def test_few_classes_and_clean_metrics(tiny_clip: HuggingFaceEncoder, classes: int) -> None:
    data = agreeing_set(tiny_clip, 10, classes, wrong=4)
    result = evaluate(tiny_clip, data, protocol_for(attack_params={"steps": 3, "loss": "dlr"}), progress=False)
    assert result.metrics.acc5 == (None if classes == 2 else 1.0)
    correct = torch.arange(10) >= 4
    recalls = [correct[data.label_B == c].float().mean() for c in data.label_B.unique()]
    assert result.metrics.mean_per_class_recall == pytest.approx(float(sum(recalls) / len(recalls)))
    assert counts(result)[0] == 6


def test_gallery(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data, protocol = agreeing_set(tiny_clip), protocol_for()
    evaluate(tiny_clip, data, protocol, out=tmp_path, batch_size=7, gallery=24, progress=False)
    arrays = load_sidecar(result_path(tmp_path, "toy", protocol))
    position = arrays["gallery_index"]
    assert arrays["gallery_clean"].shape == (24, 3, 16, 16)
    assert arrays["gallery_adv"].shape == (3, 24, 3, 16, 16)
    assert len(set(position.tolist())) == 24 and position.tolist() != sorted(position.tolist())  # drawn without repeats
    assert torch.equal(arrays["gallery_prediction"][0], arrays["clean_prediction_N"][position])
    classifier = ZeroShotClassifier(tiny_clip, data.class_names)
    clean = arrays["gallery_clean"].float() / 255
    for e, eps in enumerate(protocol.eps):
        adv = arrays["gallery_adv"][e].float()
        assert float((adv - clean).abs().max()) <= eps + 5e-4  # float16
        robust = arrays["robust_EN"][e, position]
        assert torch.equal(arrays["gallery_prediction"][e + 1] == arrays["gallery_label"], robust)
        confidence = classifier(adv).softmax(1).amax(1)
        torch.testing.assert_close(arrays["gallery_confidence"][e + 1], confidence, atol=0.02, rtol=0)
    assert not torch.equal(arrays["gallery_adv"][0], arrays["gallery_adv"][2])


def test_every_model_gets_the_same_gallery(tokenizer: Any, tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 1):
        data, protocol = make_image_set(24), protocol_for(eps="1/255")
        evaluate(build_tiny_clip(tokenizer, seed=seed), data, protocol, out=tmp_path / str(seed), gallery=5, progress=False)
        drawn.append(load_sidecar(result_path(tmp_path / str(seed), "toy", protocol)))
    assert torch.equal(drawn[0]["gallery_index"], drawn[1]["gallery_index"])
    assert not torch.equal(drawn[0]["clean_prediction_N"], drawn[1]["clean_prediction_N"])  # they do differ


def test_bf16_attacks_are_judged_in_fp32(tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tima.evaluation.subject.has_bf16", lambda device: True)
    data = agreeing_set(tiny_clip)
    half = evaluate(tiny_clip, data, protocol_for(), precision="bf16", progress=False)
    full = evaluate(tiny_clip, data, protocol_for(), precision="fp32", progress=False)
    assert half.protocol["precision"] == "bf16"
    assert half.fallbacks == []
    assert half.clean == full.clean  # to the last digit: the judge is the same
    assert abs(counts(half)[2] - counts(full)[2]) <= 3


def test_what_attacks_call_is_the_fast_model_and_what_judges_is_not(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`attack_model` is asked for bf16 and for compiling, its notes reach the result, and its answers never count."""
    asked: list[tuple[str, bool]] = []

    class Broken:
        """Calls everything class 0; only `exact` tells the truth."""

        def __init__(self, classifier: ZeroShotClassifier) -> None:
            self.exact, self.notes = classifier, ["not compiled: there is no compiler"]

        def __call__(self, image: torch.Tensor) -> torch.Tensor:
            return self.exact(image) * 0 + torch.tensor([9.0, *[0.0] * 5])

    def attack_model(classifier: ZeroShotClassifier, precision: str, compile: bool) -> Broken:
        asked.append((precision, compile))
        return Broken(classifier)

    monkeypatch.setattr("tima.models.fast.attack_model", attack_model)
    monkeypatch.setattr("tima.evaluation.subject.has_bf16", lambda device: True)
    data, protocol = agreeing_set(tiny_clip), protocol_for(eps="1/10200")
    for words in ({"precision": "bf16"}, {"compile": True}):
        result = evaluate(tiny_clip, data, protocol, progress=False, **words)  # type: ignore[arg-type]
        assert result.fallbacks == ["not compiled: there is no compiler"]
        assert counts(result)[1] >= 20  # the fast model calls nearly all of them broken
    assert asked == [("bf16", False), ("fp32", True)]


def test_stages_attack_only_what_is_left_and_count_what_they_break(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack suite needs no change here: its attacks are stages."""
    data, sizes = agreeing_set(tiny_clip), []

    def second(model, image, label, eps, **words):  # type: ignore[no-untyped-def]
        sizes.append(len(image))
        return pgd(model, image, label, eps, steps=10, **words)

    stages = [Stage("first", pgd, {"steps": 1, "step_size": 1e-9}), Stage("second", second, {})]
    monkeypatch.setattr("tima.evaluate.find_stages", lambda *_: stages)
    result = evaluate(tiny_clip, data, protocol_for(eps="1/255"), progress=False)
    (row,) = result.robust
    assert [a.name for a in row.attacks] == ["first", "second"]
    assert [a.attacked for a in row.attacks] == [22, 22 - row.attacks[0].broken]
    assert sizes == [22 - row.attacks[0].broken]
    assert row.correct == 22 - row.attacks[0].broken - row.attacks[1].broken
    assert row.attacks[1].broken > 0


def test_training_domain_comes_from_the_run(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data, protocol = make_image_set(6, name="pictures"), protocol_for(eps="1/255")
    assert evaluate(tiny_clip, data, protocol, progress=False).train_domain  # the embedded training set
    (tmp_path / "recipe.yaml").write_text("method: tecoa\ndata: some/where/toy:train\n")
    assert not evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False).train_domain
    assert evaluate(tiny_clip, make_image_set(6), protocol, out=tmp_path, progress=False).train_domain
    elsewhere = evaluate(tiny_clip, data, protocol, out=tmp_path / "other", train_data="toy", progress=False)
    assert not elsewhere.train_domain  # a run's results may lie elsewhere: the caller knows


def test_another_split_of_the_same_name_is_not_taken_for_this_one(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    data, protocol = make_image_set(9, classes=3), protocol_for(eps="1/255")
    evaluate(tiny_clip, data, protocol, out=tmp_path, progress=False)
    with pytest.raises(DataError, match="other images than 'toy' has now"):
        evaluate(tiny_clip, data.subset([1, 2, 0, 3, 4, 5, 6, 7, 8]), protocol, out=tmp_path, progress=False)


def test_the_record_says_which_pixels_were_attacked(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    """Labels alone do not tell two sets apart. A call that goes on looks at some images, not at all of them."""
    data, protocol = make_image_set(80, classes=2), protocol_for(eps="1/255")
    result = evaluate(tiny_clip, data, protocol, out=tmp_path, batch_size=40, progress=False)
    arrays = load_sidecar(result_path(tmp_path, "toy", protocol))
    pixel_NCHW = torch.stack([data[i][0] for i in range(80)]).float() / 255  # type: ignore[misc]
    first = hashlib.sha256(pixel_NCHW[0].numpy().tobytes()).digest()[:8]
    assert int(arrays["image_hash_N"][0]) == int.from_bytes(first, "little", signed=True)
    assert len(arrays["image_hash_N"].unique()) == 80
    rows = np.stack([np.arange(80), data.label_B.numpy(), arrays["image_hash_N"].numpy()], 1)
    assert result.images_sha256 == hashlib.sha256(b"(3, 16, 16)\n" + rows.astype("<i8").tobytes()).hexdigest()
    in_memory = evaluate_classifier(
        ZeroShotClassifier(tiny_clip, data.class_names), (pixel_NCHW, data.label_B), protocol, name="m", progress=False
    )
    assert in_memory.images_sha256 == result.images_sha256  # the same pixels, wherever they came from

    read: list[int] = []
    again = replace(data, read=lambda i: (read.append(i), data.read(i))[1])
    assert evaluate(tiny_clip, again, protocol, out=tmp_path, progress=False) == result
    assert 0 < len(set(read)) <= 32
    others = make_image_set(80, classes=2, seed=1)
    assert torch.equal(others.label_B, data.label_B)
    with pytest.raises(DataError, match="other images than 'toy' has now"):
        evaluate(tiny_clip, others, protocol, out=tmp_path, progress=False)


def test_errors(tiny_clip: HuggingFaceEncoder) -> None:
    data = make_image_set(6)
    with pytest.raises(RecipeError, match="no attack 'hope'"):
        evaluate(tiny_clip, data, protocol_for(attack="hope"), progress=False)
    with pytest.raises(RecipeError, match="no parameter step to set"):
        evaluate(tiny_clip, data, protocol_for(attack_params={"step": 3}), progress=False)
    with torch.no_grad():
        next(iter(tiny_clip.image_parameters().values())).fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN or infinite logits on 'toy'"):
        evaluate(tiny_clip, data, protocol_for(), progress=False)


def test_other_sizes_are_resized_and_fgsm_works(tiny_clip: HuggingFaceEncoder) -> None:
    result = evaluate(tiny_clip, make_image_set(6, size=20), protocol_for(attack="fgsm", attack_params={}), progress=False)
    assert result.complete
    assert result.attack == "fgsm"
    assert all(row.forwards >= row.backwards for row in result.robust)


def test_counted_model_counts_images_not_calls() -> None:
    counted = CountedModel(lambda x: x.flatten(1) * 2)
    x = torch.rand(5, 1, 2, 2, requires_grad=True)
    torch.autograd.grad(counted(x).sum(), x)
    counted(x.detach())
    assert (counted.forwards, counted.backwards) == (10, 5)
