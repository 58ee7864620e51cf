"""Two towers behind one small interface, and the zero-shot classifier on top of them."""

from tima.models.dual_encoder import DualEncoder
from tima.models.load import load_model, nano_folder
from tima.models.zero_shot import ZeroShotClassifier, encode_classes

__all__ = ["DualEncoder", "ZeroShotClassifier", "encode_classes", "load_model", "nano_folder"]
