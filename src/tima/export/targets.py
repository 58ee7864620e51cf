"""The table of targets: what each is called, how it is written, compared and used. A new target is a file and a line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tima.export import hugging_face, llava, onnx, open_clip, torch_export
from tima.export.probe import Probe
from tima.models import DualEncoder


@dataclass(frozen=True)
class Classes:
    """The classes that a graph with a fixed answer is made for: names, and prompts with `{c}` that are averaged."""

    names: Sequence[str]
    templates: Sequence[str]


@dataclass(frozen=True)
class Target:
    """One way out.

    Attributes:
        about: one line, for help and cards.
        write: writes into an empty folder; raises `ModelError` for a model that it cannot express.
        check: loads what was written and compares; returns the largest difference of each comparison.
        usage: Python that loads it, with `{folder}` where its place goes.
    """

    about: str
    write: Callable[[DualEncoder, Path, Classes | None], None]
    check: Callable[[DualEncoder, Path, Probe, Classes | None], dict[str, float]]
    usage: Callable[[DualEncoder, Classes | None], str]


TARGETS: dict[str, Target] = {
    "hf": Target("Hugging Face transformers folder", hugging_face.write, hugging_face.check, hugging_face.usage),
    "open_clip": Target("open_clip folder", open_clip.write, open_clip.check, open_clip.usage),
    "onnx": Target("ONNX graphs with a free batch size", onnx.write, onnx.check, onnx.usage),
    "torch-export": Target("torch.export programs (.pt2)", torch_export.write, torch_export.check, torch_export.usage),
    "llava": Target("Image tower for LLaVA and its kin", llava.write, llava.check, llava.usage),
}
