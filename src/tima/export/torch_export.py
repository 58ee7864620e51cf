"""torch.export programs: `image_encoder.pt2`, `text_encoder.pt2` and, for fixed classes, `classifier.pt2`.

They run with torch alone, without tima and transformers, and compile ahead of time. Pixels in [0, 1], normalised inside.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tima.errors import ModelError
from tima.export.graphs import check_graphs, graphs, plain_attention, write_facts
from tima.export.probe import Probe
from tima.models import DualEncoder

if TYPE_CHECKING:
    from tima.export.targets import Classes


def write(model: DualEncoder, folder: Path, classes: "Classes | None" = None) -> None:
    """Record and write the programs.

    Raises:
        ModelError: torch.export cannot follow what the model does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with plain_attention(model):
        for graph in graphs(model, classes):
            try:
                program = torch.export.export(graph.module.eval(), args=(), kwargs=graph.inputs, dynamic_shapes=graph.dynamic)
            except Exception as error:  # each stage of torch.export raises its own
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise ModelError(f"'{model.name}': torch.export cannot record {graph.name}: {first[:300]}") from error
            torch.export.save(program, folder / f"{graph.name}.pt2")
    write_facts(model, folder, classes)


def check(model: DualEncoder, folder: Path, probe: Probe, classes: "Classes | None" = None) -> dict[str, float]:
    """Load the files, run them, compare."""
    programs = {file.stem: torch.export.load(file).module() for file in sorted(folder.glob("*.pt2"))}

    def run(name: str, inputs: dict[str, Tensor]) -> Tensor:
        device = model.mean_C11.device  # constants of a program are where they were recorded
        with torch.no_grad():
            answer: Tensor = programs[name](**{key: value.to(device) for key, value in inputs.items()})
        return answer

    return check_graphs(model, probe, classes, run)


def usage(model: DualEncoder, classes: "Classes | None" = None) -> str:
    name = "image_encoder" if classes is None else "classifier"
    return (
        "import torch\n\n"
        f'program = torch.export.load("{{folder}}/{name}.pt2").module()\n'
        f"answer = program(pixels=pixels)  # float32, n x 3 x {model.image_size} x {model.image_size}, in [0, 1]"
    )
