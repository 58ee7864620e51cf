"""Makes a torchvision that was built for another torch importable, for the tests of the open_clip extra.

Package indexes offer torchvision built for CUDA torch; beside the CPU build its compiled operators are missing and
`import torchvision` fails, and with it `timm`, `open_clip` and the image models of `transformers`. No test needs those
operators, only that they are declared. Where torchvision is absent or whole, nothing is done.
"""

import importlib.util
import sys

import torch

_kept: list[torch.library.Library] = []  # a library's definitions live as long as it does


def declare_missing() -> None:
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
