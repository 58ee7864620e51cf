"""ONNX graphs: `image_encoder.onnx`, `text_encoder.onnx` and, for fixed classes, `classifier.onnx`.

Any number of pictures or texts at a time; pixels in [0, 1], normalised inside (see `graphs.py`). Compared in onnxruntime.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tima.errors import ModelError
from tima.export.graphs import check_graphs, graphs, plain_attention, write_facts
from tima.export.probe import Probe
from tima.models import DualEncoder

if TYPE_CHECKING:
    from tima.export.targets import Classes

OPSET = 18
ONE_FILE_BYTES = 1_800_000_000  # protobuf holds 2 GB; larger weights go to a file beside the graph


def write(model: DualEncoder, folder: Path, classes: "Classes | None" = None) -> None:
    """Record and write the graphs.

    Raises:
        ModelError: the extra is not installed, or the exporter cannot express what the model does.
    """
    _import_extra()
    folder.mkdir(parents=True, exist_ok=True)
    beside = sum(p.numel() * 4 for p in model.parameters()) > ONE_FILE_BYTES
    with plain_attention(model), _quiet():
        for graph in graphs(model, classes):
            try:
                torch.onnx.export(
                    graph.module.eval(),
                    kwargs=graph.inputs,
                    f=folder / f"{graph.name}.onnx",
                    input_names=list(graph.inputs),
                    output_names=[graph.output],
                    dynamic_shapes=graph.dynamic,
                    opset_version=OPSET,
                    external_data=beside,
                    dynamo=True,
                    verbose=False,
                )
            except Exception as error:  # the exporter raises its own kinds, and wraps those of every pass
                raise ModelError(f"'{model.name}': {graph.name} cannot be written as ONNX: {_last_line(error)}") from error
    write_facts(model, folder, classes)


def check(model: DualEncoder, folder: Path, probe: Probe, classes: "Classes | None" = None) -> dict[str, float]:
    """Check the files against the standard, run them in onnxruntime, compare."""
    import onnx
    import onnxruntime

    sessions: dict[str, Any] = {}
    for file in sorted(folder.glob("*.onnx")):
        onnx.checker.check_model(file)
        sessions[file.stem] = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(name: str, inputs: dict[str, Tensor]) -> Tensor:
        session = sessions[name]
        return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])

    return check_graphs(model, probe, classes, run)


def usage(model: DualEncoder, classes: "Classes | None" = None) -> str:
    name = "image_encoder" if classes is None else "classifier"
    return (
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{{folder}}/{name}.onnx")\n'
        f"# pixels: float32, n x 3 x {model.image_size} x {model.image_size}, in [0, 1]\n"
        'answer = session.run(None, {"pixels": pixels})[0]'
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself: operators of torchvision that nobody asked for, names that it derived."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _import_extra() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            import_module(name)
        except ImportError as error:
            raise ModelError(f"ONNX export needs {name}, which is not installed: pip install 'tima[onnx]'") from error


def _last_line(error: Exception) -> str:
    """The cause's own words: the exporter's error is pages of advice around them."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300]
