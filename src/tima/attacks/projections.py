"""The set an attack may search: all images within `eps` of the clean one and inside [0, 1].

Shapes: `B` images, `C` channels, `H, W` pixels. Two norms: `l_inf` (each value may move by eps) and `l_2` (Euclidean
length of the whole perturbation; its eps may exceed 1). Both stay inside without float drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tima.errors import RecipeError

NORMS = ("l_inf", "l_2")
Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class LInfBall:
    """Bounds `low <= x <= high`, rounded inwards: `|x - image| <= eps` holds in exact arithmetic, not only in fp32."""

    low_BCHW: Tensor
    high_BCHW: Tensor

    @classmethod
    def around(cls, image_BCHW: Tensor, eps_B: Tensor) -> "LInfBall":
        wide_BCHW = image_BCHW.cpu() if image_BCHW.device.type == "mps" else image_BCHW  # no float64 there
        exact_BCHW, eps_B111 = wide_BCHW.double(), eps_B.to(wide_BCHW.device).double()[:, None, None, None]
        low_BCHW, high_BCHW = (exact_BCHW - eps_B111).clamp_(min=0), (exact_BCHW + eps_B111).clamp_(max=1)
        low, high = low_BCHW.float(), high_BCHW.float()
        low = torch.where(low.double() < low_BCHW, torch.nextafter(low, torch.ones_like(low)), low)
        high = torch.where(high.double() > high_BCHW, torch.nextafter(high, torch.zeros_like(high)), high)
        return cls(low.to(image_BCHW.device), high.to(image_BCHW.device))

    def project_(self, x_BCHW: Tensor) -> Tensor:
        """The nearest point inside, in place."""
        return x_BCHW.clamp_(self.low_BCHW, self.high_BCHW)

    def step_(self, gradient_BCHW: Tensor, x_BCHW: Tensor, size_B: Tensor) -> Tensor:
        """Steepest ascent from `x`, projected."""
        return self.project_(gradient_BCHW.sign().mul_(size_B[:, None, None, None]).add_(x_BCHW))

    def random(self, generator: Generators) -> Tensor:
        """Uniform in the box. Where [0, 1] cuts it, the mass moves into what is left."""
        return self.project_(self.low_BCHW + (self.high_BCHW - self.low_BCHW) * noise(self.low_BCHW, generator, "uniform"))

    def contains(self, x_BCHW: Tensor) -> Tensor:
        """Which points lie inside: bool, one an image."""
        return ((x_BCHW >= self.low_BCHW) & (x_BCHW <= self.high_BCHW)).flatten(1).all(1)

    def select(self, index: Tensor) -> "LInfBall":
        return LInfBall(self.low_BCHW[index], self.high_BCHW[index])

    def join(self, other: "LInfBall") -> "LInfBall":
        return LInfBall(torch.cat([self.low_BCHW, other.low_BCHW]), torch.cat([self.high_BCHW, other.high_BCHW]))


@dataclass
class L2Ball:
    """Euclidean ball. The radius is a hundred-thousandth of eps and a millionth of the pixel range smaller than eps: more
    than fp32 is off by when a length is measured, and when a small change is added to each pixel."""

    image_BCHW: Tensor
    radius_B: Tensor

    @classmethod
    def around(cls, image_BCHW: Tensor, eps_B: Tensor) -> "L2Ball":
        return cls(image_BCHW, torch.maximum(eps_B * (1 - 1e-5) - 1e-6, eps_B / 2).float())

    def project_(self, x_BCHW: Tensor) -> Tensor:
        """Shrink to the ball, then clamp to [0, 1]: clamping only moves towards the clean image, so it stays inside."""
        offset_BCHW = x_BCHW.sub_(self.image_BCHW)
        factor_B = (self.radius_B / euclidean(offset_BCHW)).clamp(max=1)
        return offset_BCHW.mul_(factor_B[:, None, None, None]).add_(self.image_BCHW).clamp_(0, 1)

    def step_(self, gradient_BCHW: Tensor, x_BCHW: Tensor, size_B: Tensor) -> Tensor:
        size_B = size_B / euclidean(gradient_BCHW)
        return self.project_((gradient_BCHW * size_B[:, None, None, None]).add_(x_BCHW))

    def random(self, generator: Generators) -> Tensor:
        """A Gaussian direction at full length: in many dimensions nearly all of the ball's volume lies there."""
        offset_BCHW = noise(self.image_BCHW, generator, "normal")
        factor_B = self.radius_B / euclidean(offset_BCHW)
        return self.project_(offset_BCHW.mul_(factor_B[:, None, None, None]).add_(self.image_BCHW))

    def contains(self, x_BCHW: Tensor) -> Tensor:
        """Which points lie inside: bool, one an image."""
        # half of what the radius leaves: a point that was put onto the ball's surface must not count as outside by rounding
        near_B = euclidean(x_BCHW - self.image_BCHW) <= self.radius_B * (1 + 5e-6) + 5e-7
        return near_B & ((x_BCHW >= 0) & (x_BCHW <= 1)).flatten(1).all(1)

    def select(self, index: Tensor) -> "L2Ball":
        return L2Ball(self.image_BCHW[index], self.radius_B[index])

    def join(self, other: "L2Ball") -> "L2Ball":
        return L2Ball(torch.cat([self.image_BCHW, other.image_BCHW]), torch.cat([self.radius_B, other.radius_B]))


Ball = LInfBall | L2Ball


def check_norm(norm: str) -> None:
    """Raise `RecipeError` for a norm that does not exist."""
    if norm not in NORMS:
        raise RecipeError(f"There is no norm '{norm}'. Known are: {', '.join(NORMS)}.")


def make_ball(norm: str, image_BCHW: Tensor, eps_B: Tensor) -> Ball:
    """The ball of a norm.

    Raises:
        RecipeError: no norm of that name.
    """
    check_norm(norm)
    return LInfBall.around(image_BCHW, eps_B) if norm == "l_inf" else L2Ball.around(image_BCHW, eps_B)


def euclidean(x_BCHW: Tensor) -> Tensor:
    """Euclidean length an image, never 0 so that it can be divided by.

    Row by row first: torch sums the squares of 150,528 equal values one after the other in fp32, which is off by 5e-5.
    """
    return x_BCHW.norm(dim=3).flatten(1).norm(dim=1).clamp_(min=1e-20)


def noise(like_BCHW: Tensor, generator: Generators, kind: str) -> Tensor:
    """`uniform` in [0, 1) or `normal`: from one generator for the batch, or one an image, so that an image's noise does not
    depend on who else is in the batch."""
    draw = torch.rand if kind == "uniform" else torch.randn
    if generator is None:
        return draw(like_BCHW.shape, device=like_BCHW.device)
    if isinstance(generator, torch.Generator):
        return draw(like_BCHW.shape, generator=generator, device=generator.device).to(like_BCHW.device)
    parts = [draw(like_BCHW.shape[1:], generator=g, device=g.device) for g in generator]
    return torch.stack(parts).to(like_BCHW.device)
