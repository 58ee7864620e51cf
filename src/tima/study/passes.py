"""What a training step costs: passes through the image tower, texts, seconds, memory. Counted while an ordinary run works.

Counted are the calls that the objective makes, its inner attack and its teacher included; validation is not. Counts are per
optimiser step, so that a run that was stopped and went on reports the same. Global hooks of torch see the run without a
change to the trainer. Shapes: `B` images, `C` channels, `H, W` pixels.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from tima.models import DualEncoder
from tima.objective import Objective


class PassMeter:
    """Totals over the optimiser steps seen: images forward and backward through image towers, texts, seconds.

    Attributes:
        steps: optimiser steps.
        images: pictures that entered the objective.
        forwards, backwards: images sent through the image towers, and images whose gradient came back through one.
        texts: texts encoded.
        seconds, cpu_seconds: wall and processor time inside steps.
        fastest: wall time of the quickest step; the first ones of a process are slow.
    """

    def __init__(self, after_step: "Callable[[PassMeter], None] | None" = None) -> None:
        self._after_step = after_step
        self.steps = self.images = self.forwards = self.backwards = self.texts = 0
        self.seconds = self.cpu_seconds = 0.0
        self.fastest = float("inf")
        self._inside = False
        self._began: tuple[float, float] | None = None
        self._met: set[int] = set()

    def record(self) -> dict[str, Any]:
        """Means over the steps; empty when no step was seen."""
        if not self.steps:
            return {}
        return {
            "steps_measured": self.steps,
            "images_per_step": self.images / self.steps,
            "forwards_per_step": self.forwards / self.steps,
            "backwards_per_step": self.backwards / self.steps,
            "texts_per_step": self.texts / self.steps,
            "seconds_per_step": round(self.seconds / self.steps, 4),
            "cpu_seconds_per_step": round(self.cpu_seconds / self.steps, 4),
        }

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before every module's forward."""
        if not isinstance(module, Objective):
            return
        for model in (module.student, module.teacher):
            if model is not None and id(model) not in self._met:
                self._met.add(id(model))
                self._count(model)
        self._inside = True
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()
        if args and isinstance(args[0], Tensor):
            self.images += len(args[0])

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After every module's forward."""
        if isinstance(module, Objective):
            self._inside = False

    def stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """After every optimiser step."""
        if self._began is not None:
            self.steps += 1
            took = time.perf_counter() - self._began[0]
            self.seconds, self.fastest = self.seconds + took, min(self.fastest, took)
            self.cpu_seconds += time.process_time() - self._began[1]
            self._began = None
            if self._after_step is not None:
                self._after_step(self)

    def _count(self, model: DualEncoder) -> None:
        """Put counters before the model's ways in."""

        def images(encode: Callable[..., Any]) -> Callable[..., Any]:
            def counted(image_BCHW: Tensor, *args: Any, **words: Any) -> Any:
                found = encode(image_BCHW, *args, **words)
                if self._inside:
                    self.forwards += len(image_BCHW)
                    self._watch(found if isinstance(found, tuple) else (found,))
                return found

            return counted

        def texts(listed: Any, **words: Any) -> Tensor:
            feature_CD = encode_text(listed, **words)
            self.texts += len(feature_CD) if self._inside else 0
            return feature_CD

        encode_text = model.encode_text
        model.encode_text = texts  # type: ignore[method-assign, assignment]
        for name in ("encode_image", "encode_patches"):
            setattr(model, name, images(getattr(model, name)))

    def _watch(self, outputs: tuple[Tensor, ...]) -> None:
        """Count a backward pass through a call, once whichever of its outputs the loss uses."""
        met: list[int] = []

        def back(gradient: Tensor) -> None:
            if not met or len(outputs) == 1:
                self.backwards += len(gradient)
            met.append(len(gradient))

        for output in outputs:
            if output.requires_grad:
                output.register_hook(back)


@contextmanager
def measured(after_step: Callable[[PassMeter], None] | None = None) -> Iterator[PassMeter]:
    """Measure the trainings that run inside the block, in this process. `after_step` is called after each optimiser step."""
    meter = PassMeter(after_step)
    handles = [
        register_module_forward_pre_hook(meter.enter),
        register_module_forward_hook(meter.leave),
        register_optimizer_step_post_hook(meter.stepped),
    ]
    try:
        yield meter
    finally:
        for handle in handles:
            handle.remove()


def peak_memory() -> tuple[int, str]:
    """Largest memory so far in bytes, and of what: the GPU's allocations where there is one, else this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0:
        return int(torch.cuda.max_memory_allocated()), "gpu"
    status = Path("/proc/self/status")
    if status.is_file():
        lines = [line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:")]
        if lines:
            return int(lines[0].split()[1]) * 1024, "process"
    import resource  # not on every system

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(largest if sys.platform == "darwin" else largest * 1024), "process"
