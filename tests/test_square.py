"""Square Attack: its schedule and its queries by hand, blind to gradients, an image's search its own."""

import math

import pytest
import torch
from small_net import Net, generators, make_batch, margin
from torch import Tensor

from tima.attacks import CountedModel, pgd
from tima.attacks._square_l2 import L2Squares, bump, pattern
from tima.attacks._squares import LInfSquares, shares, window
from tima.attacks.projections import make_ball
from tima.attacks.square import square
from tima.errors import DataError, EpsError, ModelError, RecipeError

EPS = 4 / 255


@pytest.fixture
def net() -> Net:
    return Net()


@pytest.fixture
def batch(net: Net) -> tuple[Tensor, Tensor]:
    return make_batch(net, 16)


def test_the_schedule_by_hand() -> None:
    """Halved after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 proposals; proposal i is query i + 1."""
    full = shares(10_000, 0.8, rescale=False)
    assert full == shares(10_000, 0.8, rescale=True)
    for proposal, halvings in ((0, 0), (10, 0), (11, 1), (50, 1), (51, 2), (501, 4), (2001, 6), (8000, 8), (8001, 9)):
        assert full[proposal + 1] == 0.8 / 2**halvings
    short = shares(1000, 0.8, rescale=True)
    assert (short[1 + 1], short[2 + 1], short[5 + 1], short[6 + 1], short[801 + 1]) == (0.8, 0.4, 0.4, 0.2, 0.8 / 512)
    assert shares(1000, 0.8, rescale=False) == full[:1000]
    # 32 x 32 pixels: sqrt(0.8 * 1024) = 28.6, sqrt(0.4 * 1024) = 20.2, then 14.3, and at the end 1.3
    squares = LInfSquares((1, 3, 32, 32), 10_000, 0.8, False)
    assert [int(squares.side_Q[q]) for q in (1, 12, 52, 9000)] == [29, 20, 14, 1]
    # l_2 squares are odd and at least 3 wide
    assert [int(L2Squares((1, 3, 32, 32), 10_000, 0.8, False).side_Q[q]) for q in (1, 12, 52, 9000)] == [29, 21, 15, 3]


def test_windows_lie_inside_and_reach_every_corner() -> None:
    random = torch.tensor([[0.0, 0.0], [0.999999, 0.999999], [0.0, 0.999999], [0.5, 0.5]])
    mask = window(5, 6, torch.tensor([2, 2, 2, 5]), random)[0][:, 0]
    assert mask.sum((1, 2)).tolist() == [4, 4, 4, 25]
    assert bool(mask[0, :2, :2].all() & mask[1, 3:, 4:].all() & mask[2, :2, 4:].all())


def test_patterns_by_hand() -> None:
    # rings 0 and 1 around the middle of 3 x 3: 1 + 1/4 and 1/4
    expected = torch.full((3, 3), 0.25)
    expected[1, 1] = 1.25
    torch.testing.assert_close(bump(3, 3), expected / math.sqrt(8 * 0.0625 + 1.5625))
    for side in (1, 3, 6, 21):
        whole = pattern(side)
        assert float(whole.norm()) == pytest.approx(1)
        assert float(whole[: side // 2].min() if side > 1 else 1) > 0 > float(whole[side // 2 :].max())


def test_l_inf_first_points_are_stripes_and_proposals_change_one_square() -> None:
    image = torch.full((4, 3, 8, 8), 0.5)
    ball = make_ball("l_inf", image, torch.full((4,), 0.1, dtype=torch.float64))
    squares = LInfSquares(image.shape, 100, 0.2, False)
    first = squares.first(image, ball, torch.rand(4, squares.first_numbers))
    torch.testing.assert_close((first - 0.5).abs(), torch.full_like(image, 0.1))
    assert bool((first == first[:, :, :1]).all()), "one colour down each column"
    proposed = squares.propose(image, first, ball, torch.tensor([1, 1, 12, 12]), torch.rand(4, squares.numbers))
    for i, side in enumerate((4, 4, 3, 3)):  # sqrt(0.2 * 64) = 3.6 and sqrt(0.1 * 64) = 2.5
        rows, columns = (proposed[i] != first[i]).any(0).nonzero(as_tuple=True)
        assert len(rows) == 0 or max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) < side
    assert bool((proposed != first).any())


def test_l_2_keeps_the_budget_spent() -> None:
    """Far from black and white every proposal has exactly the radius as its length."""
    image = torch.full((5, 3, 10, 10), 0.5)
    ball = make_ball("l_2", image, torch.full((5,), 0.3, dtype=torch.float64))
    squares = L2Squares(image.shape, 200, 0.8, True)
    x = squares.first(image, ball, torch.rand(5, squares.first_numbers))
    for query in (1, 5, 60, 199):
        assert (x - image).flatten(1).norm(dim=1).tolist() == pytest.approx([0.3] * 5, rel=2e-5)
        random = torch.rand(5, squares.numbers)
        after = squares.propose(image, x, ball, torch.full((5,), query), random)
        side = squares.side_Q[torch.full((5,), query)]
        touched = window(10, 10, side, random[:, :2])[0] | window(10, 10, side, random[:, 2:4])[0]
        ratio = ((after - image) / (x - image)).masked_fill(touched | ((x - image) == 0), 1)
        assert float((ratio - ratio.flatten(1).amax(1)[:, None, None, None]).abs().min()) < 1e-3
        x = after


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
@pytest.mark.parametrize("loss", ["margin", "ce"])
def test_stays_inside_and_finds_a_good_part_of_what_pgd_finds(
    norm: str, loss: str, net: Net, batch: tuple[Tensor, Tensor]
) -> None:
    image, label = batch
    eps = 0.03 if norm == "l_inf" else 0.6
    found = square(net, image, label, eps, norm=norm, queries=400, loss=loss, stop_when_broken=True, generator=generators(16))
    offset = found.double() - image.double()
    assert float(offset.abs().amax() if norm == "l_inf" else offset.flatten(1).norm(dim=1).amax()) <= eps
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    broken = int((margin(net, found, label) > 0).sum())
    strong = int((margin(net, pgd(net, image, label, eps, norm=norm, steps=40, loss="margin"), label) > 0).sum())
    first = square(net, image, label, eps, norm=norm, queries=1, generator=generators(16))
    assert strong >= 12
    assert broken >= 0.7 * strong
    assert broken > int((margin(net, first, label) > 0).sum())


def test_queries_are_bounded_and_counted(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    asked = torch.zeros(16, dtype=torch.long)

    def counting(x: Tensor) -> Tensor:
        nearest = (x[:, None] - image[None]).abs().amax((2, 3, 4)).argmin(1)  # whose ball is it?
        asked.index_add_(0, nearest, torch.ones_like(nearest))
        return net(x)

    square(counting, image, label, EPS, queries=30, generator=generators(16))
    assert asked.tolist() == [30] * 16
    asked.zero_()
    square(counting, image, label, EPS, queries=30, restarts=2, start_BCHW=image, generator=generators(16), batch_size=5)
    assert asked.tolist() == [61] * 16
    asked.zero_()
    found = square(counting, image, label, 0.03, queries=300, stop_when_broken=True, generator=generators(16))
    broken = margin(net, found, label) > 0
    assert bool((asked[~broken] == 300).all())
    assert int(asked[broken].min()) < 50, "who is broken is not asked about again"
    counted = CountedModel(net)
    square(counted, image, label, EPS, queries=7)
    assert (counted.forwards, counted.backwards) == (16 * 7, 0)


def test_sees_answers_only(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    """Logits rounded to whole numbers have no gradient anywhere: PGD stands still, Square does not."""
    image, label = batch

    def rounded(x: Tensor) -> Tensor:
        return (net(x) * 4).round()

    blind = pgd(rounded, image, label, 0.03, random_start=False, steps=10)
    torch.testing.assert_close(blind, image)
    found = square(rounded, image, label, 0.06, queries=300, stop_when_broken=True, generator=generators(16))
    assert int((rounded(found).argmax(1) != label).sum()) >= 8


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
@pytest.mark.parametrize("stop", [False, True])
def test_an_image_does_not_notice_its_neighbours(stop: bool, norm: str, net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    eps_B = torch.linspace(2, 12, 16, dtype=torch.float64) / 255 * (1 if norm == "l_inf" else 14)
    words = {"norm": norm, "queries": 150, "restarts": 2, "stop_when_broken": stop}
    together = square(net, image, label, eps_B, generator=generators(16), **words)  # type: ignore[arg-type]
    pooled = square(net, image, label, eps_B, generator=generators(16), batch_size=3, **words)  # type: ignore[arg-type]
    torch.testing.assert_close(pooled, together, atol=1e-6, rtol=0)
    for i in (0, 7, 15):
        own = generators(16)[i : i + 1]
        alone = square(net, image[i : i + 1], label[i : i + 1], float(eps_B[i]), generator=own, **words)  # type: ignore[arg-type]
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)
    shared = [
        square(net, image, label, eps_B, generator=torch.Generator().manual_seed(5), batch_size=size, **words)  # type: ignore[arg-type]
        for size in (None, 4)
    ]
    torch.testing.assert_close(shared[0], shared[1], atol=1e-6, rtol=0)


def test_more_queries_restarts_and_starts_never_make_it_weaker(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    base = {"queries": 60, "rescale": False}
    plain = margin(net, square(net, image, label, EPS, generator=generators(16), **base), label)  # type: ignore[arg-type]
    strong = pgd(net, image, label, EPS, steps=40, loss="margin")
    for words in ({"queries": 120}, {"restarts": 3}, {"start_BCHW": strong}, {"start_BCHW": image}):
        found = square(net, image, label, EPS, generator=generators(16), **{**base, **words})  # type: ignore[arg-type]
        assert float((margin(net, found, label) - plain).min()) >= -1e-5
        if words.get("start_BCHW") is strong:
            assert float((margin(net, found, label) - margin(net, strong, label)).min()) >= -1e-5


def test_two_classes_targeted_and_odd_shapes(batch: tuple[Tensor, Tensor]) -> None:
    image, _ = batch
    two, net = Net(classes=2), Net()
    label = two(image).argmax(1)
    found = square(two, image, label, 0.1, queries=200, stop_when_broken=True)
    assert int((two(found).argmax(1) != label).sum()) >= 12
    target = (net(image).argmax(1) + 1) % 5
    reached = square(net, image, target, 0.2, queries=300, targeted=True, stop_when_broken=True)
    assert int((net(reached).argmax(1) == target).sum()) >= 8
    for shape in ((2, 1, 3, 4), (2, 3, 9, 5)):
        grey = torch.rand(shape)
        for norm in ("l_inf", "l_2"):
            seen = square(lambda x: x.flatten(1)[:, :3], grey, torch.tensor([0, 1]), 0.1, norm=norm, queries=20)
            assert bool((seen != grey).any())


def test_what_is_refused(net: Net, batch: tuple[Tensor, Tensor]) -> None:
    image, label = batch
    with pytest.raises(EpsError, match="write 4/255"):
        square(net, image, label, 4)
    with pytest.raises(DataError, match="classes 0 to 4"):
        square(net, image, label + 5, EPS)
    for words in ({"queries": 0}, {"p_init": 0.0}, {"restarts": 0}, {"norm": "l_7"}, {"loss": "hope"}):
        with pytest.raises(RecipeError):
            square(net, image, label, EPS, **words)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="NaN"):
        square(lambda x: net(x) * math.nan, image, label, EPS, queries=2)
    assert square(net, image[:0], label[:0], EPS).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("norm", ["l_inf", "l_2"])
@pytest.mark.parametrize("stop", [False, True])
def test_asking_ahead_changes_nothing_but_the_number_of_passes(
    net: Net, batch: tuple[Tensor, Tensor], norm: str, stop: bool
) -> None:
    """Over chunks of random numbers, restarts, images that leave and the end of the queries; and it does save passes."""
    image, label = batch[0][:3], batch[1][:3]
    eps = 4 / 255 if norm == "l_inf" else 0.2
    passes: dict[bool, int] = {}
    found: dict[bool, Tensor] = {}
    for ahead in (False, True):

        def counted(x: Tensor, ahead: bool = ahead) -> Tensor:
            passes[ahead] = passes.get(ahead, 0) + 1
            return net(x)

        words = {"norm": norm, "queries": 300, "restarts": 2, "stop_when_broken": stop, "generator": generators(3)}
        found[ahead] = square(counted, image, label, eps, batch_size=16, ahead=ahead, **words)
    assert torch.equal(found[False], found[True])
    assert passes[True] < 0.8 * passes[False]
