"""`load_model`: one name for every source of a dual encoder."""

import json
from importlib.resources import files
from pathlib import Path

from tima._files import restore_folder
from tima.errors import ModelError
from tima.models.dual_encoder import DualEncoder
from tima.models.visual_prompt import load_prompt

OPEN_CLIP_PREFIXES = ("open_clip:", "hf-hub:", "local-dir:")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".onnx")


def nano_folder() -> Path:
    """Where the embedded model lies."""
    return Path(str(files("tima") / "assets" / "nano"))


def load_model(name: str | Path) -> DualEncoder:
    """Load a dual encoder, frozen (`requires_grad` off) and in eval mode; whoever trains it enables what it trains.

    Args:
        name: `nano` (embedded); the folder of one of our runs (its best checkpoint is taken); a Hugging Face folder or
            hub name; an open_clip folder; `open_clip:ViT-B-32-quickgelu,openai`, `hf-hub:org/name` or
            `local-dir:/path` for open_clip; `checkpoint:FILE,BASE` for a published robust checkpoint (see `published.py`).

    Raises:
        ModelError: nothing there, or nothing that can be read.
    """
    text = str(name).strip()
    if text.startswith("checkpoint:"):
        from tima.models.published import load_published

        return load_published(text)
    if text.startswith(OPEN_CLIP_PREFIXES):
        from tima.models.open_clip import load_open_clip

        encoder = load_open_clip(text)
        return load_prompt(encoder, text.removeprefix("local-dir:")) if text.startswith("local-dir:") else encoder
    from tima.models.hugging_face import load_hugging_face

    if text == "nano":
        if not (nano_folder() / "config.json").is_file():
            raise ModelError(f"This installation has no embedded model: {nano_folder()} holds no config.json. Reinstall tima.")
        return load_hugging_face(nano_folder(), name="nano")
    if not text:
        raise ModelError("No model was named. Give 'nano', the folder of a run or of a model, or a hub name.")
    path = Path(text).expanduser()
    if path.is_dir():
        return _load_folder(path, text)
    if path.is_file():
        raise ModelError(f"{path} is a file. Give the folder that holds it, with its config.json beside it.")
    if text.endswith(WEIGHT_SUFFIXES) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(f"{path} does not exist. Give 'nano', the folder of a run or of a Hugging Face model, or a hub name.")
    if "/" not in text:  # asking the hub for it would cost half a minute without a network
        raise ModelError(
            f"There is no model '{text}': no folder of that name is here, and names on the hub are owner/name. The embedded "
            "model is 'nano'."
        )
    return load_hugging_face(text)


def _load_folder(path: Path, text: str) -> DualEncoder:
    """A run's `model/`, or the folder itself; Hugging Face's layout by `config.json`, open_clip's by its own file."""
    from tima.models.hugging_face import load_hugging_face

    restore_folder(path / "model")  # a run killed while it replaced its best model has the one before aside
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            _check_config(folder / "config.json")
            return load_prompt(load_hugging_face(folder, name=text), folder)
        if (folder / "open_clip_config.json").is_file():
            from tima.models.open_clip import load_open_clip

            return load_prompt(load_open_clip(f"local-dir:{folder}", name=text), folder)
    if (path / "recipe.yaml").is_file():
        raise ModelError(f"{path} is a run without a finished model yet. Let it finish: tima train --resume {path}")
    raise ModelError(f"{path} holds no model: there is no config.json and no model/config.json in it.")


def _check_config(file: Path) -> None:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}. Copy the model again.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{file} names no model_type, so this is no Hugging Face model folder.")
