"""`tima pretrain`: a small CLIP from image-text pairs and a teacher. This is how the embedded `nano` was made."""

from tima.pretrain.recipe import PretrainRecipe
from tima.pretrain.run import pretrain

__all__ = ["PretrainRecipe", "pretrain"]
