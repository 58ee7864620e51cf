"""What a library's own folder can say of a model: its weights, sizes and normalisation, and nothing that stands before them.

A part that a format cannot hold (a picture frame added to the pixels, a defence, an adapter) must stop the export: left out,
the exported model would be another one under the same name.
"""

from tima.errors import ModelError
from tima.models import DualEncoder
from tima.models.hugging_face import HuggingFaceEncoder
from tima.models.open_clip import OpenClipEncoder

GRAPHS = "onnx or torch-export, which record whatever the model computes"
OWN = ("backbone.", "mean_C11", "std_C11")


def check_plain(model: DualEncoder, target: str) -> None:
    """Raise unless `model` is a library's model and our normalisation alone.

    Raises:
        ModelError: it holds more, and what.
    """
    if extra := _extra_parts(model):
        raise ModelError(
            f"'{model.name}' cannot be exported as {target}: it also holds {', '.join(extra[:4])}, for which that format has "
            f"no place, and without it the model would be another. Export it as {GRAPHS}."
        )
    if adapters := [name for name, _ in model.backbone.named_parameters() if ".lora_" in name]:
        raise ModelError(
            f"'{model.name}' cannot be exported as {target}: adapters such as {adapters[0]} are not merged into the weights. "
            f"Merge them first, or export it as {GRAPHS}."
        )


def _extra_parts(model: DualEncoder) -> list[str]:
    """What stands outside the library's model: tensors, modules, hooks, or a class that overrides the encoders."""
    tensors = [name for name, _ in (*model.named_parameters(), *model.named_buffers()) if not name.startswith(OWN)]
    modules = [name for name, _ in model.named_children() if name != "backbone"]
    hooks = [
        f"a hook on {name or 'the model'}"
        for name, part in model.named_modules()
        for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
        # transformers leaves its own behind once it was asked for hidden states; they only look
        if not str(getattr(hook, "__module__", "")).startswith("transformers.")
    ]
    known = (HuggingFaceEncoder, OpenClipEncoder)
    other = [] if type(model) in known else [f"what the class {type(model).__name__} adds"]
    return list(dict.fromkeys([*modules, *tensors, *hooks, *other]))
