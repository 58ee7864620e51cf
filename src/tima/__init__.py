"""tima: adversarially robust zero-shot classifiers from CLIP.

    from tima import ZeroShotClassifier, load_model
    from tima.train import train
    from tima.evaluate import evaluate

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "DualEncoder": "tima.models",
    "ZeroShotClassifier": "tima.models",
    "load_model": "tima.models",
    "find_data": "tima.data",
    "ImageSet": "tima.data",
    "TrainRecipe": "tima.config",
    "load_protocol": "tima.protocols",
    "parse_eps": "tima.eps",
    "TimaError": "tima.errors",
    "robustify": "tima._robustify",
    "export_model": "tima.export",
}
__all__ = [
    "DualEncoder",
    "ImageSet",
    "TimaError",
    "TrainRecipe",
    "ZeroShotClassifier",
    "__version__",
    "export_model",
    "find_data",
    "load_model",
    "load_protocol",
    "parse_eps",
    "robustify",
]

if TYPE_CHECKING:
    from tima._robustify import robustify
    from tima.config import TrainRecipe
    from tima.data import ImageSet, find_data
    from tima.eps import parse_eps
    from tima.errors import TimaError
    from tima.export import export_model
    from tima.models import DualEncoder, ZeroShotClassifier, load_model
    from tima.protocols import load_protocol


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'tima' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
