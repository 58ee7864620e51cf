"""Balls: nothing that comes out of them lies outside, in exact arithmetic and on pictures of CLIP's size."""

import pytest
import torch

from tima.attacks.projections import L2Ball, make_ball


@pytest.mark.parametrize("eps", [0.002, 0.05, 0.5, 3.0])
def test_l_2_points_of_large_pictures_lie_inside_exactly(eps: float) -> None:
    """150,528 values: rounding each of them adds up, and so does summing their squares in fp32."""
    generator = torch.Generator().manual_seed(0)
    image_BCHW = 0.2 + 0.6 * torch.rand(4, 3, 224, 224, generator=generator)  # so that [0, 1] cuts nothing off
    ball = make_ball("l_2", image_BCHW, torch.full((4,), eps, dtype=torch.float64))
    assert isinstance(ball, L2Ball)
    gradient_BCHW = torch.randn(image_BCHW.shape, generator=generator)
    own = [torch.Generator().manual_seed(i) for i in range(4)]
    sparse_BCHW = image_BCHW.clone()
    sparse_BCHW[:, :, :8, :8] += 0.1  # the whole length in a few values
    points = {
        "random": ball.random(own),
        "step": ball.step_(gradient_BCHW, image_BCHW, torch.full((4,), 9 * eps)),
        "projected": ball.project_(image_BCHW + 0.2 * gradient_BCHW.sign()),
        "few values": ball.project_(sparse_BCHW),
    }
    for name, x_BCHW in points.items():
        length_B = (x_BCHW.double() - image_BCHW.double()).flatten(1).norm(dim=1)
        assert bool((length_B <= eps).all()), f"{name}: {float(length_B.max() / eps - 1):.1e} of eps too far"
        assert bool((length_B >= 0.99 * eps).all()) or (name == "few values" and eps == 3.0), f"{name}: budget left"
        assert bool(ball.contains(x_BCHW).all()), name
