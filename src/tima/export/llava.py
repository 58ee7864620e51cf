"""The image tower alone, as multimodal language models take it: a `CLIPVisionModel` folder with its image processor.

LLaVA and its kin read the hidden states of the last layer but one, without the projection into the common space, and hold a
connector trained on them. A tuned tower goes in the place of the one it was tuned from, at the same sizes.

Shapes: `B` images, `T` patches with the class token, `W` width of the tower.
"""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tima.errors import ExportError
from tima.export.expressible import check_plain
from tima.export.hugging_face import as_hugging_face, pil_image_processor
from tima.export.probe import TOLERANCE, Probe, compare, normalised
from tima.models import DualEncoder
from tima.models.hugging_face_files import no_bar, write_preprocessor

if TYPE_CHECKING:
    from tima.export.targets import Classes

LAYER = -2  # LLaVA's mm_vision_select_layer


def write(model: DualEncoder, folder: Path, classes: "Classes | None" = None) -> None:
    """The tower's config, safetensors and image preprocessing.

    Raises:
        ModelError: not a transformers tower and not to be made one.
    """
    from safetensors.torch import save_file

    check_plain(model, "llava")
    encoder = as_hugging_face(model)
    tower = encoder.backbone.vision_model
    folder.mkdir(parents=True, exist_ok=True)
    if encoder.backbone.config.model_type == "vision-text-dual-encoder":
        with no_bar():
            tower.save_pretrained(folder, safe_serialization=True)
    else:
        config = encoder.backbone.config.vision_config
        name = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}[encoder.backbone.config.model_type]
        values = config.to_dict() | {"architectures": [name], "dtype": "float32", "torch_dtype": "float32"}
        (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        # transformers 4 wants the prefix and 5 takes it: what LLaVA runs on is mostly the former
        weights = {
            f"vision_model.{key}": value.detach().cpu().contiguous().clone() for key, value in tower.state_dict().items()
        }
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    write_preprocessor(folder, model.image_size, model.mean_C11.flatten().tolist(), model.std_C11.flatten().tolist())


def check(model: DualEncoder, folder: Path, probe: Probe, classes: "Classes | None" = None) -> dict[str, float]:
    """Load tower and image processor; compare pixels and the hidden states that a language model would read."""
    tower = load_tower(folder)
    images = pil_image_processor(folder)
    pixel_BCHW = images(images=probe.pictures, return_tensors="pt")["pixel_values"]
    wanted_BCHW = normalised(model, probe.pixel_BCHW)
    found = {"pixels": compare("The preprocessed pixels", pixel_BCHW, wanted_BCHW, TOLERANCE)}
    inner = copy.deepcopy(as_hugging_face(model).backbone.vision_model)  # transformers leaves hooks in what it is asked of
    with torch.no_grad():
        wanted = inner(pixel_values=wanted_BCHW.to(model.mean_C11.device), output_hidden_states=True)
        loaded = tower(pixel_values=pixel_BCHW, output_hidden_states=True)
    if loaded.hidden_states is None or len(loaded.hidden_states) != len(wanted.hidden_states):
        raise ExportError("The tower that was written gives no hidden states, or not one a layer. Nothing was kept.")
    for name, layer in (("hidden states", LAYER), ("last hidden state", -1)):
        wanted_BTW, loaded_BTW = wanted.hidden_states[layer], loaded.hidden_states[layer]
        size = max(1.0, float(wanted_BTW.abs().max()))  # hidden states are not of unit norm
        found[name] = compare(f"The {name}", loaded_BTW, wanted_BTW, TOLERANCE * size)
    return found


def load_tower(folder: Path) -> Any:
    """The tower as transformers loads it, refused where a weight is missing or left over.

    Raises:
        ExportError: the weights and the config do not belong together.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    known = {"clip_vision_model": "CLIPVisionModel", "siglip_vision_model": "SiglipVisionModel"}
    kind: Any = getattr(transformers, known.get(config.model_type, "AutoModel"))
    with no_bar():
        tower, report = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    if left := [*report["missing_keys"], *report["unexpected_keys"]]:
        raise ExportError(f"The tower's weights do not fit its config: {len(left)} names differ, first {sorted(left)[0]}.")
    return tower.eval()


def usage(model: DualEncoder, classes: "Classes | None" = None) -> str:
    if as_kind(model) not in ("clip", "siglip"):
        return 'from transformers import AutoModel\n\ntower = AutoModel.from_pretrained("{folder}")'
    name = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}[as_kind(model)]
    return (
        f"from transformers import AutoImageProcessor, {name}\n\n"
        f'tower = {name}.from_pretrained("{{folder}}")\n'
        'processor = AutoImageProcessor.from_pretrained("{folder}")\n'
        f'hidden = tower(**processor(photo, return_tensors="pt"), output_hidden_states=True).hidden_states[{LAYER}]'
    )


def as_kind(model: DualEncoder) -> str:
    """transformers' model type; open_clip models that can go there become CLIPs."""
    config = getattr(model.backbone, "config", None)
    return str(getattr(config, "model_type", "clip"))
