"""The visual prompt as a modifier: it trains with the tower or alone, under any method. The frame: `models/visual_prompt.py`.

Source: TeCoA, Mao et al., ICLR 2023, arXiv 2212.07016.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tima.config import PromptSettings
from tima.errors import RecipeError
from tima.models import DualEncoder
from tima.models.visual_prompt import PaddingPrompt
from tima.modifiers.base import Modifier, Params
from tima.schedule import step_seed

NAME = "prompt.value_K"


class VisualPrompt(Modifier):
    """Puts a frame on the student, or goes on with the one it has. The teacher keeps seeing what the original saw.

    Args:
        settings: width, start and rate.
        mix: share of the tuned weights in what is saved. The original of a new frame is none, wherever its numbers started.
        seed: of a frame that starts at random.
    """

    name = "prompt"

    def __init__(self, settings: PromptSettings, mix: float, seed: int) -> None:
        self.settings, self.mix, self.seed = settings, mix, seed
        self.lr_scale = {NAME: settings.lr_scale}

    def attach(self, student: DualEncoder, params: Params) -> Params:
        """Add the frame's parameter.

        Raises:
            RecipeError: the model brings a prompt of another width.
            ModelError: a frame that does not fit the model's grid.
        """
        size = self.settings.size
        if student.prompt is None:
            prompt = PaddingPrompt(size, student.image_size, len(student.mean_C11))
            generator = torch.Generator().manual_seed(step_seed(self.seed, 0, 71))
            with torch.no_grad():
                prompt.value_K.normal_(0, self.settings.init, generator=generator)
            student.prompt = prompt.to(student.mean_C11.device)
            self.adapters = frozenset({NAME})
        elif student.prompt.size != size:
            raise RecipeError(
                f"'{student.name}' already has a visual prompt, of {student.prompt.size} pixels. Set prompt.size="
                f"{student.prompt.size} to go on training it, or start from a model without one."
            )
        self.value_K = student.prompt.value_K
        return {**({} if self.settings.alone else params), NAME: self.value_K}

    @contextmanager
    def outgoing(self) -> Iterator[None]:
        """The share `mix` of a new frame; then the whole one again, bit for bit."""
        own_K = self.value_K.detach().clone()
        try:
            with torch.no_grad():
                self.value_K.mul_(self.mix if NAME in self.adapters else 1.0)
            yield
        finally:
            with torch.no_grad():
                self.value_K.copy_(own_K)
