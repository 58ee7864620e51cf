"""`load_model`: one name for every source of a dual encoder."""

import json
from importlib.resources import files
from pathlib import Path

from tima.errors import ModelError
from tima.models.dual_encoder import DualEncoder

OPEN_CLIP_PREFIXES = ("open_clip:", "hf-hub:", "local-dir:")


def nano_folder() -> Path:
    """Where the embedded model lies."""
    return Path(str(files("tima") / "assets" / "nano"))


def load_model(name: str | Path) -> DualEncoder:
    """Load a dual encoder.

    Args:
        name: `nano` (embedded); the folder of one of our runs (its best checkpoint is taken); a Hugging Face folder or
            hub name; `open_clip:ViT-B-32-quickgelu,openai`, `hf-hub:org/name` or `local-dir:/path` for open_clip.

    Raises:
        ModelError: nothing there, or nothing that can be read.
    """
    text = str(name)
    if text.startswith(OPEN_CLIP_PREFIXES):
        from tima.models.open_clip import load_open_clip

        return load_open_clip(text)
    from tima.models.hugging_face import load_hugging_face

    if text == "nano":
        return load_hugging_face(nano_folder(), name="nano")
    path = Path(text).expanduser()
    if path.is_dir():
        folder = path / "model" if (path / "model" / "config.json").is_file() else path
        if not (folder / "config.json").is_file():
            if (path / "recipe.yaml").is_file():
                raise ModelError(f"{path} is a run without a finished model yet. Let it finish: tima train --resume {path}")
            raise ModelError(f"{path} holds no model: there is no config.json and no model/config.json in it.")
        if "model_type" not in json.loads((folder / "config.json").read_text(encoding="utf-8")):
            raise ModelError(f"{folder / 'config.json'} names no model_type, so this is no Hugging Face model folder.")
        return load_hugging_face(folder, name=text)
    if path.suffix or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(f"{path} does not exist. Give 'nano', the folder of a run or of a Hugging Face model, or a hub name.")
    return load_hugging_face(text)
