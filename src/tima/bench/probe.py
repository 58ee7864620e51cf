"""Hooks that see the trainer at work: which phase has the clock, and how many images pass through what.

Nothing of the trainer is written again: `tima.train.train` runs, and stops when enough steps were seen. The hooks are torch's
own (modules, optimisers) and replacements of four functions for as long as the block lasts. Shapes: `B` images, `C` classes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

import tima.objective as objective_module
from tima.bench.phases import Phases
from tima.models import DualEncoder
from tima.objective import Objective


class Enough(Exception):
    """The steps wanted were seen."""


class Probe:
    """Books phases and counts passes.

    Args:
        phases: whose clock runs.
        after_step: called after every optimiser step; raises `Enough` to end the run.

    Attributes:
        passes: images by what they passed through, and `texts`, since the start.
        student: the model that trains, once it was seen.
    """

    def __init__(self, phases: Phases, after_step: Callable[["Probe"], None]) -> None:
        self.phases, self.after_step = phases, after_step
        self.passes: Counter[str] = Counter()
        self.student: DualEncoder | None = None
        self._met: set[int] = set()

    # torch's hooks ------------------------------------------------------------------------------------------------

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not isinstance(module, Objective):
            return
        for model, role in ((module.student, "outer"), (module.teacher, "teacher")):
            if model is not None and id(model) not in self._met:
                self._met.add(id(model))
                self._wrap(model, role)
        self.student = module.student
        self.passes["images"] += len(args[0])
        self.phases.base("outer forward")

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, Objective):
            self.phases.base("outer forward")  # summing the terms, and the look whether they are finite

    def stepped(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.phases.base("rest")
        self.after_step(self)

    # what is replaced while the block lasts -----------------------------------------------------------------------

    def _wrap(self, model: DualEncoder, role: str) -> None:
        def images(encode: Callable[..., Any]) -> Callable[..., Any]:
            def watched(image_BCHW: Tensor, *args: Any, **words: Any) -> Any:
                if self.phases.within("attack forward"):
                    return encode(image_BCHW, *args, **words)
                self.passes[f"{role} forward"] += len(image_BCHW)
                with self.phases.inside("teacher" if role == "teacher" else "outer forward"):
                    found = encode(image_BCHW, *args, **words)
                if role == "outer":
                    self._watch_backward(found if isinstance(found, tuple) else (found,))
                return found

            return watched

        def texts(listed: Any, **words: Any) -> Tensor:
            with self.phases.inside("text forward"):
                found_CD = encode_text(listed, **words)
            self.passes["texts"] += len(found_CD)
            if found_CD.requires_grad:
                self.passes["texts backward"] += len(found_CD)
                # texts are encoded first, so autograd comes to them last: what follows is their tower
                found_CD.register_hook(lambda _gradient: self.phases.turn("outer backward", "text backward"))
            return found_CD

        encode_text = model.encode_text
        model.encode_text = texts  # type: ignore[method-assign, assignment]
        for name in (n for n in ("encode_image", "encode_anew", "encode_patches") if hasattr(model, n)):
            setattr(model, name, images(getattr(model, name)))

    def _watch_backward(self, outputs: tuple[Tensor, ...]) -> None:
        met: list[int] = []

        def back(gradient: Tensor) -> None:
            if not met:
                self.passes["outer backward"] += len(gradient)
            met.append(1)

        for output in outputs:
            if output.requires_grad:
                output.register_hook(back)

    def attack(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`inner_attack` with a watched model."""

        def watched(settings: Any, logits_fn: Callable[[Tensor], Tensor], *args: Any, **words: Any) -> Any:
            def forward(image_BCHW: Tensor) -> Tensor:
                self.passes["attack forward"] += len(image_BCHW)
                with self.phases.inside("attack forward"):
                    return logits_fn(image_BCHW)

            with self.phases.inside("attack rest"):
                return original(settings, forward, *args, **words)

        return watched

    def grad(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`torch.autograd.grad`, inside attacks."""

        def watched(outputs: Any, inputs: Any, *args: Any, **words: Any) -> Any:
            if not self.phases.within("attack rest"):
                return original(outputs, inputs, *args, **words)
            first = inputs if isinstance(inputs, Tensor) else inputs[0]
            self.passes["attack backward"] += len(first)
            with self.phases.inside("attack backward"):
                return original(outputs, inputs, *args, **words)

        return watched

    def backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """`Tensor.backward`."""

        def watched(*args: Any, **words: Any) -> Any:
            with self.phases.inside("outer backward"):
                found = original(*args, **words)
            self.phases.base("optimiser")  # clipping and the step
            return found

        return watched

    def load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The loader's next batch; what the trainer then does to it before the objective is data, too."""

        def watched(*args: Any, **words: Any) -> Any:
            if not self._met:
                self.phases.take()  # what came before the first step is the start's
            self.phases.base("data")
            return original(*args, **words)

        return watched


@contextmanager
def watching(probe: Probe) -> Iterator[Probe]:
    """The trainings of this process inside the block are seen by `probe`."""
    from torch.utils.data.dataloader import _BaseDataLoaderIter

    places: list[tuple[Any, str, Callable[..., Any]]] = [
        (objective_module, "inner_attack", probe.attack(objective_module.inner_attack)),
        (torch.autograd, "grad", probe.grad(torch.autograd.grad)),
        (Tensor, "backward", probe.backward(Tensor.backward)),
        (_BaseDataLoaderIter, "__next__", probe.load(_BaseDataLoaderIter.__next__)),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    handles = [
        register_module_forward_pre_hook(probe.enter),
        register_module_forward_hook(probe.leave),
        register_optimizer_step_post_hook(probe.stepped),
    ]
    try:
        for owner, name, replacement in places:
            setattr(owner, name, replacement)
        yield probe
    finally:
        for owner, name, original in before:
            setattr(owner, name, original)
        for handle in handles:
            handle.remove()
