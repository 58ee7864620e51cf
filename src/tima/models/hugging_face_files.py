"""What lies in a Hugging Face folder besides the weights, and what is wrong with one that cannot be read."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tima.errors import ModelError

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def write_preprocessor(folder: Path, image_size: int, mean: Sequence[float], std: Sequence[float]) -> None:
    """`preprocessor_config.json` as CLIPImageProcessor reads it: bicubic to the short side, centre crop, normalise."""
    config = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [round(m, 8) for m in mean],
        "image_std": [round(s, 8) for s in std],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def refuse_pickles(folder: Path) -> None:
    """A pickle can run code when it is opened, so weights are read as safetensors only."""
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"))
        if pickles:
            raise ModelError(
                f"{folder} holds weights only as {pickles[0]}, a format that can run code when it is opened. "
                "Convert it to model.safetensors (safetensors.torch.save_file) where you trust it."
            )
        raise ModelError(f"{folder} holds a config.json but no weights: model.safetensors is missing.")


def damaged_file(source: Path) -> Path:
    """The weights file that cannot be read, where it is a local one."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(source.glob("*.safetensors")) if source.is_dir() else ():
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            return file
    return source


def load_tokenizer(source: str | Path, config: Any) -> Any:
    """The model's tokenizer. Without its files transformers makes an empty one up, and every text comes out the same."""
    import transformers

    advice = "Put the tokenizer's files (tokenizer.json, tokenizer_config.json) into the folder."
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # what is raised here depends on the tokenizer's own library
        raise ModelError(f"'{source}': the tokenizer cannot be loaded: {first_line(error)}. {advice}") from error
    highest = max(tokenizer(["a photo of a cat."])["input_ids"][0])
    if len(tokenizer) < 64 or highest >= config.text_config.vocab_size:
        raise ModelError(
            f"'{source}': the tokenizer is missing or of another model ({len(tokenizer)} tokens, the text tower has "
            f"{config.text_config.vocab_size}). {advice}"
        )
    return tokenizer


def mean_std(source: str | Path) -> tuple[Sequence[float], Sequence[float]]:
    """The model's own normalisation. A CLIP folder without a preprocessor file gets CLIP's, never ImageNet's."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError as error:
        file = Path(source) / "preprocessor_config.json"
        if file.is_file():  # there but unreadable: another mean and standard deviation would cost accuracy unnoticed
            raise ModelError(f"{file} cannot be read as JSON: {first_line(error)}") from error
        return CLIP_MEAN, CLIP_STD
    return values.get("image_mean", CLIP_MEAN), values.get("image_std", CLIP_STD)


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextmanager
def no_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
