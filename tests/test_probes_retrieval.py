"""Recall by hand on 3 images x 2 captions, recall under attack, targeted success on a linear model."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, make_image_set, png

from tima.attacks import find_attack
from tima.data.image_set import sample_indices
from tima.errors import DataError, ModelError, RecipeError
from tima.probes import recall
from tima.probes.captions import read_captions
from tima.probes.corrupted import probe_corruptions
from tima.probes.record import read_probe, write_probe
from tima.probes.retrieval import attack_retrieval, probe_retrieval
from tima.probes.targeted import draw_targets, probe_targeted, targeted_success
from tima.probes.text import probe_text
from tima.stats import wilson

OWNER = torch.tensor([0, 0, 1, 1, 2, 2])
# rows are images; captions 0, 1 belong to image 0 and so on
SIMILARITY = torch.tensor(
    [
        [0.9, 0.1, 0.3, 0.2, 0.0, 0.0],  # own best 0.9: nothing before it
        [0.5, 0.6, 0.4, 0.3, 0.45, 0.0],  # own best 0.4: 0.5, 0.6, 0.45 before it
        [0.1, 0.2, 0.7, 0.1, 0.7, 0.6],  # own best 0.7, level with a foreign one, which counts as before
    ]
)


def test_recall_by_hand() -> None:
    own = recall.own_mask(OWNER, torch.arange(3))
    assert recall.image_to_text_rank(SIMILARITY, own).tolist() == [0, 3, 1]
    # caption 0: 0.9 against 0.5, 0.1; 1: 0.1 against 0.6, 0.2; 2: 0.4 against 0.3, 0.7; 3: 0.3 against 0.2, 0.1; ...
    assert recall.text_to_image_rank(SIMILARITY, OWNER).tolist() == [0, 2, 1, 0, 0, 0]
    assert recall.kth_other(SIMILARITY, OWNER, 1).tolist() == pytest.approx([0.5, 0.6, 0.7, 0.2, 0.45, 0.0])
    assert recall.margin_image_to_text(SIMILARITY, own, 1).tolist() == pytest.approx([0.3 - 0.9, 0.6 - 0.4, 0.0])
    assert recall.margin_image_to_text(SIMILARITY, own, 3).tolist() == pytest.approx([0.0 - 0.9, 0.45 - 0.4, 0.1 - 0.7])


def test_a_model_that_gives_everything_the_same_similarity_retrieves_nothing() -> None:
    same = torch.ones(3, 6)
    assert (recall.image_to_text_rank(same, recall.own_mask(OWNER, torch.arange(3))) >= 1).all()
    assert (recall.text_to_image_rank(same, OWNER) >= 1).all()


def test_the_loss_of_text_to_image_spends_little_on_captions_that_are_lost() -> None:
    own = recall.own_mask(torch.tensor([0, 0]), torch.tensor([0]))
    got = recall.margin_text_to_image(torch.tensor([[0.5, 0.1]]), own, torch.tensor([0.4, 0.32]))
    assert got.item() == pytest.approx(-0.1 + 0.02 + 0.01 * (0.22 - 0.02), abs=1e-6)


def linear_encoder(seed: int = 0, width: int = 8):  # type: ignore[no-untyped-def]
    weight = torch.randn(3 * 4 * 4, width, generator=torch.Generator().manual_seed(seed))
    return lambda x_BCHW: F.normalize((x_BCHW.flatten(1) - 0.5) @ weight, dim=-1)


TWELVE = torch.arange(12)


def attacked(batch_size: int = 50, order: torch.Tensor = TWELVE, index: torch.Tensor = TWELVE) -> dict[str, torch.Tensor]:
    """Twelve pictures, in another order or under other numbers if asked."""
    encode = linear_encoder()
    image = 0.1 + 0.8 * torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    clean = encode(image)
    noise = torch.randn(24, 8, generator=torch.Generator().manual_seed(2))
    owner = torch.arange(12).repeat_interleave(2)
    text = F.normalize(clean[owner] + 0.15 * noise, dim=-1)
    sizes = [0.004, 0.02, 0.08]
    image, clean, text = image[order], clean[order], text.view(12, 2, 8)[order].flatten(0, 1)
    words = {"ks": (1, 5), "params": {"steps": 8}, "batch_size": batch_size}
    return attack_retrieval(encode, image, clean, text, owner, sizes, index[order], **words)  # type: ignore[arg-type]


def test_recall_never_rises_with_eps_and_the_attack_works() -> None:
    found = attacked()
    for hit in found.values():
        assert (hit[1:] <= hit[:-1]).all()  # image by image, not just on average
        assert (hit[:, 0] <= hit[:, 1]).all()  # found at 1 is found at 5
        assert hit[0, 0].float().mean() > 0.6
        assert hit[-1, 0].float().mean() < 0.3
    assert found["image to text"].shape == (4, 2, 12) and found["text to image"].shape == (4, 2, 24)


def test_an_images_random_numbers_are_its_own_wherever_it_stands_in_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[bytes, list[torch.Tensor]] = {}

    def watched(name: str):  # type: ignore[no-untyped-def]
        def run(logits_fn, image_BCHW, *rest, **words):  # type: ignore[no-untyped-def]
            found = find_attack(name)(logits_fn, image_BCHW, *rest, **words)
            for image, adv in zip(image_BCHW, found, strict=True):
                made.setdefault(image.numpy().tobytes(), []).append(adv)
            return found

        return run

    def perturbed(**words: torch.Tensor) -> dict[bytes, torch.Tensor]:
        made.clear()
        outcome.append(attacked(**words))  # type: ignore[arg-type]
        return {image: torch.stack(points) for image, points in made.items()}

    outcome: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr("tima.probes.retrieval.find_attack", watched)
    order = torch.tensor([7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 6, 4])
    plain, shuffled, others = perturbed(), perturbed(order=order), perturbed(index=torch.arange(12) + 50)
    assert len(plain) == 12
    for image, points in plain.items():
        torch.testing.assert_close(shuffled[image], points, atol=1e-6, rtol=0)  # sums in another order round otherwise
        assert not torch.allclose(others[image], points, atol=1e-6, rtol=0)
    pairs = (2 * order[:, None] + torch.arange(2)).flatten()
    for direction, places in (("image to text", order), ("text to image", pairs)):
        assert torch.equal(outcome[1][direction], outcome[0][direction][:, :, places])


def test_what_is_sampled_keeps_its_number(tiny_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The record named places in the sample, which say nothing of which pictures these were."""
    data = read_captions(caption_parquet(tmp_path / "test.parquet"), 16)
    found = probe_retrieval(tiny_clip, data, [0.02], steps=1, samples=3, seed=4)
    assert found.details["index"] == sample_indices(6, 3, 4).tolist() != [0, 1, 2]


def test_retrieval_does_not_depend_on_the_batch_size() -> None:
    one, other = attacked(50), attacked(5)
    assert all(torch.equal(one[key], other[key]) for key in one)


def caption_parquet(path: Path, n: int = 6) -> Path:
    images = make_image_set(n=n, classes=n)
    rows = [{"bytes": images.read(i), "path": None} for i in range(n)]
    texts = [[f"a photo of a {images.class_names[i]}", f"{images.class_names[i]} picture"] for i in range(n)]
    pq.write_table(pa.table({"image": rows, "captions": texts}), path)
    return path


def test_parquet_and_csv_of_the_same_pictures_are_the_same_set(tmp_path: Path) -> None:
    whole = read_captions(caption_parquet(tmp_path / "test.parquet"), 16)
    lines = ["path,caption"]
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(whole.images.read(i))  # type: ignore[arg-type]
    lines += [f"{i}.png,{whole.captions[i][c]}" for c in range(2) for i in range(6)]  # a picture's lines apart
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    listed = read_captions(tmp_path / "pairs.csv", 16)
    assert listed.captions == whole.captions and len(listed) == 6
    assert all(torch.equal(listed.images[i][0], whole.images[i][0]) for i in range(6))  # type: ignore[arg-type]
    assert whole.sampled(3, 0)[0].captions == [
        whole.captions[i] for i in sorted(torch.randperm(6, generator=torch.Generator().manual_seed(0))[:3].tolist())
    ]


def test_captions_that_are_missing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("path,caption\nx.png,\n")
    with pytest.raises(DataError, match=r"row 0.*no caption"):
        read_captions(tmp_path / "a.csv", 16)
    (tmp_path / "b.csv").write_text("file,text\nx.png,y\n")
    with pytest.raises(DataError, match="path,caption"):
        read_captions(tmp_path / "b.csv", 16)


def test_retrieval_of_a_model(tiny_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data = read_captions(caption_parquet(tmp_path / "test.parquet"), 16)
    found = probe_retrieval(tiny_clip, data, [0.02], steps=2)
    assert found.find("R@1", group="image to text", eps=0.0).n == 6
    assert found.find("R@1", group="text to image", eps=0.02).n == 12
    assert read_probe(write_probe(tmp_path / "r.json", found)) == found
    with pytest.raises(RecipeError, match="pgd and apgd"):
        probe_retrieval(tiny_clip, data, [0.02], attack="square")


def test_targeted_success_on_a_linear_model_is_what_algebra_says() -> None:
    # logits = W (x - 0.5); with l_inf the target's lead over class j can grow by eps * |W_t - W_j|_1 and no more
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 12, generator=generator)
    image = 0.4 + 0.2 * torch.rand(40, 3, 2, 2, generator=generator)
    target = torch.randint(0, 3, (40,), generator=generator)
    model = lambda x: (x.flatten(1) - 0.5) @ weight.T  # noqa: E731
    sizes = [0.005, 0.02, 0.05]
    found = targeted_success(model, image, target, sizes, torch.arange(40), params={"steps": 30})
    # with 2 rivals the two bounds need not be met at one point, so they only bound success from above
    logits = model(image)
    for row, eps in enumerate([0.0, *sizes]):
        for i, t in enumerate(target.tolist()):
            lead = [logits[i, t] - logits[i, j] + eps * (weight[t] - weight[j]).abs().sum() for j in range(3) if j != t]
            assert not found[row, i] or min(lead) >= -1e-5
    assert (found[1:] >= found[:-1]).all() and found[-1].float().mean() > found[0].float().mean()
    # two classes: one rival, so the bound is exact
    two = lambda x: model(x)[:, :2]  # noqa: E731
    other = two(image).argmin(1)
    got = targeted_success(two, image, other, [0.02], torch.arange(40), attack="pgd", params={"steps": 10})[1]
    gap = two(image).gather(1, other[:, None])[:, 0] - two(image).max(1).values
    room = gap + 0.02 * (weight[0] - weight[1]).abs().sum()
    assert got.tolist() == (room > 0).tolist() and 0 < got.sum() < 40


def test_targets_are_wrong_classes_of_their_images() -> None:
    label = torch.arange(400) % 5
    target = draw_targets(label, torch.arange(400), 5, seed=0)
    assert (target != label).all() and target.unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(draw_targets(label[7:9], torch.tensor([7, 8]), 5, seed=0), target[7:9])
    assert not torch.equal(draw_targets(label, torch.arange(400), 5, seed=1), target)


def test_targets_are_recorded(tiny_clip, toy_set) -> None:  # type: ignore[no-untyped-def]
    found = probe_targeted(tiny_clip, toy_set, [0.02, 0.1], steps=3, samples=10)
    details = found.details
    assert len(details["target"]) == len(details["label"]) == len(details["index"]) == 10
    assert [toy_set.label_B[i].item() for i in details["index"]] == details["label"]
    assert found.rows[2].correct == int(np.sum(details["success"][2])) >= found.rows[1].correct
    given = probe_targeted(tiny_clip, toy_set, [0.02], target="dog", steps=2)
    assert given.n == 18 and set(given.details["target"]) == {1}  # 6 of 24 are dogs
    with pytest.raises(DataError, match="none of the classes"):
        probe_targeted(tiny_clip, toy_set, [0.02], target="wolf")


@pytest.mark.skipif(not (SHARED / "flickr8k-1000").is_dir(), reason="the Flickr8k sample is not on this machine")
def test_flickr8k_has_five_captions_a_picture() -> None:
    data = read_captions(SHARED / "flickr8k-1000", 32)
    assert len(data) == 1000
    assert all(4 <= len(texts) <= 5 for texts in data.captions)  # 4 where two are the same
    assert data.images[0][0].shape == (3, 32, 32)  # type: ignore[union-attr]


def test_a_picture_that_cannot_be_read_is_left_out_with_its_captions(tiny_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(np.full((16, 16, 3), 60 * i, np.uint8)))
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "c.csv").write_text("path,caption\n0.png,a cat\n1.png,a dog\n2.png,a tree\n")
    found = probe_retrieval(tiny_clip, read_captions(tmp_path / "c.csv", 16), [0.02], steps=1, ks=(1,))
    assert found.n == 2 and found.settings["captions"] == 2 and "row 1" in found.quarantined[0]


def test_captions_that_stand_and_fall_together_are_worth_one_an_image() -> None:
    owner = torch.arange(40).repeat_interleave(5)
    together = (torch.arange(40) % 4 == 0).repeat_interleave(5)
    # 10 of 40 images: independent captions would be 200 with variance p (1 - p) / 200, these have p (1 - p) / 39
    assert recall.worth(together, owner) == pytest.approx(40)
    assert recall.worth(torch.arange(200) % 5 == 0, owner) == 200  # one of five in each image: no dependence at all
    assert recall.worth(torch.ones(200, dtype=torch.bool), owner) == 40
    # two of five in every second image, by hand: p = 0.2, deviations of 1 caption in each, 40 / 200^2 * 40 / 39
    half = (torch.arange(200) % 10) < 2
    assert recall.worth(half, owner) == pytest.approx(0.16 / (40 / 40_000 * 40 / 39))
    one_each = torch.rand(40, generator=torch.Generator().manual_seed(0)) < 0.5
    assert recall.worth(one_each, torch.arange(40)) == 40  # the plain interval


def test_intervals_of_text_to_image_know_about_images(tiny_clip, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = probe_retrieval(tiny_clip, read_captions(caption_parquet(tmp_path / "test.parquet"), 16), [0.02], steps=1, ks=(6,))
    row = found.find("R@6", group="text to image", eps=0.0)  # a pool of 6 images cannot lose at 6
    assert (row.correct, row.n, row.high) == (12, 12, 1)
    assert row.low == pytest.approx(wilson(6, 6)[0])


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_a_model_of_nan_finds_nothing_and_says_so(tiny_clip, tower: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    next(getattr(tiny_clip.backbone, tower).parameters()).data.fill_(torch.nan)
    pictures = make_image_set(n=6, classes=3)
    with pytest.raises(ModelError, match="NaN"):
        probe_retrieval(tiny_clip, read_captions(caption_parquet(tmp_path / "test.parquet"), 16), [], steps=1)
    for probe in (partial(probe_targeted, eps=[]), probe_text, partial(probe_corruptions, corruptions=["contrast"])):
        with pytest.raises(ModelError, match="NaN"):
            probe(tiny_clip, pictures)  # type: ignore[operator]
