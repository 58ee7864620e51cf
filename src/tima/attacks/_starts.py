"""Where the runs of a search begin, with random numbers that belong to the image and to nothing else.

Shapes: `N` images in all, `A` images asked for, `C` channels, `H, W` pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tima.attacks.projections import Ball, Generators, make_ball


class Starts:
    """Run 0 begins in `start_NCHW` where one is given; every other run in a random point, or in the clean image.

    Args:
        norm: see `projections.NORMS`.
        image_NCHW: clean images.
        eps_N: radii.
        start_NCHW: points for one extra run; they are projected into the ball. The runs that follow are those of a search
            without it, so that a start never makes an attack weaker.
        random_start: else runs begin in the clean image.
        generator: one, or one an image. A shared one is asked for all images at once, so that its stream does not depend
            on who is broken already or on the size of the batch.
    """

    def __init__(
        self,
        norm: str,
        image_NCHW: Tensor,
        eps_N: Tensor,
        start_NCHW: Tensor | None,
        random_start: bool,
        generator: Generators,
    ) -> None:
        self.norm, self.image_NCHW, self.eps_N = norm, image_NCHW, eps_N
        self.start_NCHW, self.random_start, self.generator = start_NCHW, random_start, generator
        self.extra = 0 if start_NCHW is None else 1
        self._drawn: dict[int, Tensor] = {}

    @property
    def own(self) -> list[torch.Generator] | None:
        """The generators that may be asked, one an image; none where nothing is drawn; None where images share one."""
        if not self.random_start:
            return []
        return list(self.generator) if isinstance(self.generator, Sequence) else None

    def ball(self, row_N: Tensor) -> Ball:
        """The ball around some images."""
        return make_ball(self.norm, self.image(row_N), self.eps_N[row_N])

    def image(self, row_N: Tensor) -> Tensor:
        """Some clean images; all of them without a copy, so never to be changed in place."""
        number = len(self.image_NCHW)  # as many rows as images need not be all images: some may be there twice
        return (
            self.image_NCHW if len(row_N) == number and bool((row_N == torch.arange(number)).all()) else self.image_NCHW[row_N]
        )

    def point(self, run: int, row_N: Tensor, ball: Ball) -> Tensor:
        """Where run number `run` begins for some images, each once and in order, whose ball is given: `x_ACHW`."""
        if run == 0 and self.start_NCHW is not None:
            return ball.project_(self.start_NCHW[row_N].detach().to(self.image_NCHW.device).float())
        if not self.random_start:
            return self.image(row_N)
        if self.generator is None:
            return ball.random(None)
        if isinstance(self.generator, Sequence):
            return ball.random([self.generator[i] for i in row_N.tolist()])
        if len(row_N) == len(self.image_NCHW):
            return ball.random(self.generator)
        if run not in self._drawn:
            self._drawn[run] = self.ball(torch.arange(len(self.image_NCHW))).random(self.generator)
        return self._drawn[run][row_N]
