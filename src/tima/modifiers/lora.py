"""Low-rank adapters through peft: a few small matrices train in place of a tower's weights. Any method, either tower.

Source: Hu et al. 2021, arXiv 2106.09685. What leaves the run are ordinary weights with the adapters merged in, so evaluation,
export and everything else need not know of them; the run's checkpoint keeps the adapters, so that resuming is exact.
Formula numbers are those of docs/method.md.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tima.config import LoraSettings
from tima.errors import RecipeError
from tima.models import DualEncoder
from tima.modifiers.base import Modifier, Params
from tima.schedule import step_seed

ADAPTER = "default"  # peft's name of the only adapter


class Lora(Modifier):
    """Adapters on the linear layers that the method would train; its other weights in those towers stay frozen.

    Args:
        settings: rank, scale and place.
        mix: share of the tuned weights in what is saved. For adapters that is a factor of their product: the mean of two
            pairs of matrices is not the pair of the mean.
        seed: of the matrices that start at random; the others start at 0, so the first step sees the original.
    """

    name = "lora"

    def __init__(self, settings: LoraSettings, mix: float, seed: int) -> None:
        self.settings, self.mix, self.seed = settings, mix, seed
        self.layers: list[tuple[nn.Module, str, Any]] = []  # (parent, attribute, peft's layer)

    def attach(self, student: DualEncoder, params: Params) -> Params:
        """Put the adapters in.

        Raises:
            RecipeError: peft is missing, or there is no layer to adapt.
        """
        peft = _import_peft()
        self.student = student
        towers = {"image": student.image_parameters(), "text": student.text_parameters("full")}
        chosen = [towers[t] for t in towers if self.settings.tower in (t, "both")]
        replaced = {name for tower in chosen for name in tower if name in params}
        names = self._layers(student.backbone, replaced)
        config = peft.LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.alpha,
            # a pattern is matched whole; of a list peft takes every layer whose name ends like one: open_clip's text layers are
            # `transformer...`, its image layers `visual.transformer...`
            target_modules="|".join(map(re.escape, names)),
            lora_dropout=0.0,
            bias="none",
        )
        # the lean image tower reads the weights themselves and would pass the adapters by
        self.lean = student.use_lean(None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(step_seed(self.seed, 0, 72))
            peft.inject_adapter_in_model(config, student.backbone, adapter_name=ADAPTER)
        for name in names:
            parent, _, attribute = name.rpartition(".")
            place = student.backbone.get_submodule(parent)
            self.layers.append((place, attribute, getattr(place, attribute)))
        found = {name: p for name, p in student.backbone.named_parameters() if ".lora_" in name}
        self.adapters = frozenset(found)
        return {name: p for name, p in params.items() if name not in replaced} | found

    @contextmanager
    def outgoing(self) -> Iterator[None]:
        """Plain layers with merged weights in the adapters' places; the unmerged ones come back bit for bit."""
        kept = []
        try:
            with torch.no_grad():
                for parent, attribute, layer in self.layers:
                    base = layer.get_base_layer()
                    kept.append((base, base.weight.data))
                    # (25) LoRA: W + mix (alpha / rank) B A
                    base.weight.data = base.weight.data + self.mix * layer.get_delta_weight(ADAPTER)
                    setattr(parent, attribute, base)
            self.student.use_lean(self.lean)
            yield
        finally:
            for (parent, attribute, layer), (base, weight) in zip(self.layers, kept, strict=False):
                base.weight.data = weight
                setattr(parent, attribute, layer)
            self.student.use_lean(None)

    def _layers(self, backbone: nn.Module, trained: set[str]) -> list[str]:
        """Linear layers whose weights are among `trained`, by name."""
        # torch's own attention takes the weight of its output layer and never calls it: an adapter there would be idle
        idle = {f"{name}.out_proj" for name, part in backbone.named_modules() if isinstance(part, nn.MultiheadAttention)}
        linear = [
            name
            for name, part in backbone.named_modules()
            if isinstance(part, nn.Linear) and f"{name}.weight" in trained and name not in idle
        ]
        targets = self.settings.targets
        names = [name for name in linear if targets is None or name.rpartition(".")[2] in targets]
        if not names:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear})) or "none"
            raise RecipeError(
                f"LoRA (tower: {self.settings.tower}, targets: {targets or 'all'}) finds no linear layer that this method "
                f"trains there. Those that it trains: {known}."
            )
        return names


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise RecipeError('LoRA needs the library peft. Install it with: pip install "tima[lora]"') from error
    return peft
