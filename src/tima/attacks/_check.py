"""What every attack refuses, with the reason, before it spends any time.

Shapes: `B` images, `C` channels, `H, W` pixels.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from tima.attacks.projections import Generators, check_norm
from tima.errors import DataError, EpsError, ModelError, NotFiniteError, RecipeError


def check_attack(
    image_BCHW: Tensor,
    label_B: Tensor,
    start_BCHW: Tensor | None,
    steps: int,
    step_size: float | None,
    restarts: int,
    random_start: bool,
    compares: bool,
    *,
    batch_size: int | None = None,
    generator: Generators = None,
    targets: int = 1,
    eot_iter: int = 1,
    logits_fn: Any = ...,
) -> None:
    """Raise `DataError` for images and labels, `RecipeError` for parameters that cannot be meant, `ModelError` for no model."""
    if logits_fn is not ... and not callable(logits_fn):
        raise ModelError(f"Attacks take a model or function from pixels to logits, not a {type(logits_fn).__name__}.")
    if not (isinstance(image_BCHW, Tensor) and isinstance(label_B, Tensor)):
        kinds = f"{type(image_BCHW).__name__} and {type(label_B).__name__}"
        raise DataError(f"Attacks take images and labels as torch tensors, not as {kinds}; torch.as_tensor makes them.")
    if not image_BCHW.is_floating_point():
        raise DataError(f"Attacks take float images in [0, 1]; these are {image_BCHW.dtype}. Divide uint8 images by 255.")
    if image_BCHW.ndim != 4:
        raise DataError(f"Attacks take images B x C x H x W, not {' x '.join(map(str, image_BCHW.shape))}.")
    if label_B.ndim == 0 or (label_B.ndim > 1 and not label_B.is_floating_point()):
        raise DataError(f"Class numbers come one an image, of shape B; these labels have shape {tuple(label_B.shape)}.")
    if len(label_B) != len(image_BCHW):
        raise DataError(f"{len(image_BCHW)} images came with {len(label_B)} labels.")
    if label_B.ndim == 1 and label_B.dtype != torch.int64:
        raise DataError(f"Attacks take class numbers as int64; these are {label_B.dtype}. Convert them with .long().")
    if label_B.ndim == 1 and len(label_B) and int(label_B.min()) < 0:
        raise DataError(f"Labels reach down to {int(label_B.min())}; class numbers begin at 0.")
    if start_BCHW is not None and not (isinstance(start_BCHW, Tensor) and start_BCHW.is_floating_point()):
        kind = start_BCHW.dtype if isinstance(start_BCHW, Tensor) else type(start_BCHW).__name__
        raise DataError(f"The start must be a float tensor of pixels in [0, 1], like the images; this is {kind}.")
    if start_BCHW is not None and start_BCHW.shape != image_BCHW.shape:
        raise DataError(f"The start has shape {tuple(start_BCHW.shape)}, the images {tuple(image_BCHW.shape)}.")
    if start_BCHW is not None and not bool(start_BCHW.isfinite().all()):
        raise DataError("The start holds NaN or infinite pixels: leave it out, or look at what made it.")
    if image_BCHW.numel():
        low, high = torch.stack(torch.aminmax(image_BCHW.detach())).tolist()
        if not (low >= 0 and high <= 1):  # NaN fails this too
            raise DataError(
                f"Attacks take images in [0, 1]; these reach from {low:.4g} to {high:.4g}. Divide 0-255 images by 255, and "
                "leave normalisation to the model (DualEncoder.encode_image does it inside)."
            )
    counts = (steps, restarts, targets, eot_iter, *(() if batch_size is None else (batch_size,)))
    # half a step is never reached: the search would not end
    if not all(isinstance(count, int) and not isinstance(count, bool) for count in counts):
        raise RecipeError(f"Steps, restarts, targets, forward passes and batch_size are whole numbers, not {list(counts)}.")
    if steps < 1 or restarts < 1:
        raise RecipeError(f"An attack needs at least 1 step and 1 restart, not {steps} and {restarts}.")
    if step_size is not None:
        check_numbers(step_size=step_size)
    if step_size is not None and not step_size > 0:
        raise RecipeError(f"step_size {step_size} is not above 0; leave it out for 2.5 * eps / steps.")
    if restarts > 1 and not random_start:
        raise RecipeError(f"{restarts} restarts without random_start would be the same run again. Switch random_start on.")
    if restarts > 1 and not compares:
        raise RecipeError(f"{restarts} restarts without keep_best or stop_when_broken would throw all runs but one away.")
    if batch_size is not None and batch_size < 1:
        raise RecipeError(f"batch_size {batch_size} leaves no image in the batch; leave it out for all at once.")
    given = list(generator) if isinstance(generator, Sequence) else [] if generator is None else [generator]
    if wrong := [type(item).__name__ for item in given if not isinstance(item, torch.Generator)]:
        raise RecipeError(f"generator is one torch.Generator, or a sequence with one an image; this holds {wrong[0]}.")
    if isinstance(generator, Sequence) and len(generator) != len(image_BCHW):
        raise RecipeError(f"{len(image_BCHW)} images came with {len(generator)} generators; give one, or one an image.")
    if targets < 1 or eot_iter < 1:
        raise RecipeError(f"An attack needs at least 1 target and 1 forward pass a step, not {targets} and {eot_iter}.")


def check_numbers(**values: Any) -> None:
    """Raise `RecipeError` for parameters that are no finite numbers: text, None, NaN, a tensor."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise RecipeError(f"{name} must be a number, not {value!r}.")


def check_classes(logits_BC: Tensor, label_B: Tensor) -> None:
    """Raise `DataError` for class indices that the logits do not have, `ModelError` for outputs that are no rows.

    Other kinds of label pass."""
    if logits_BC.ndim < 2 or len(logits_BC) != len(label_B):
        raise ModelError(
            f"The model answers {len(label_B)} images with shape {tuple(logits_BC.shape)}; attacks need a row of logits an "
            "image, B x C. A model with one output has to become one with two classes."
        )
    if label_B.ndim == 1 and not label_B.is_floating_point() and len(label_B) and logits_BC.ndim == 2:
        low, high = torch.stack(torch.aminmax(label_B)).tolist()
        if low < 0 or high >= logits_BC.shape[1]:
            raise DataError(
                f"Labels reach from {low} to {high}, but the model knows the classes 0 to {logits_BC.shape[1] - 1}."
            )


def check_class_numbers(label_B: Tensor) -> None:
    """Raise `DataError` for soft labels, where an attack needs to know the class."""
    if label_B.ndim != 1 or label_B.is_floating_point():
        shape = tuple(label_B.shape)
        raise DataError(f"This attack takes class numbers, one an image; these labels are {label_B.dtype} of shape {shape}.")


def eps_tensor(eps: float | Tensor, image_BCHW: Tensor, norm: str) -> Tensor:
    """eps as float64 `eps_B`, checked.

    Raises:
        EpsError: no number, not above 0, infinite, not below 1 under `l_inf`, or not one an image.
        RecipeError: no norm of that name.
    """
    check_norm(norm)
    if isinstance(eps, Tensor):
        if eps.ndim > 1 or (eps.ndim == 1 and len(eps) != len(image_BCHW)):
            raise EpsError(f"eps has shape {tuple(eps.shape)}; give one number, or one an image ({len(image_BCHW)}).")
        values = eps.detach().double().cpu().flatten().tolist()
    else:
        try:
            values = [float(eps)]
        except (TypeError, ValueError):
            raise EpsError(f"eps {eps!r} is not a number. tima.eps.parse_eps reads texts like '4/255'.") from None
    for value in values:
        if not value > 0:
            raise EpsError(f"eps {value:g} is not above 0: there is nothing to search.")
        if math.isinf(value):
            raise EpsError("eps is infinite: no ball of that size can be searched.")
        if norm == "l_inf" and value >= 1:
            raise EpsError(
                f"eps {value:g} is not below 1, and eps is measured in pixel units of [0, 1], where 1 is the whole range from "
                f"black to white. If you meant {value:g} of 255 grey levels, write {value:g}/255."
            )
    device = image_BCHW.device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    eps_B = torch.tensor(values, dtype=dtype, device=device)
    return eps_B if len(values) == len(image_BCHW) else eps_B.expand(len(image_BCHW))


def not_finite(bad: Tensor) -> None:
    """Raise `ModelError` when the flag is set."""
    if bool(bad):
        raise NotFiniteError(
            "The attack met NaN or infinite values: the model's logits, its loss or its pixel gradients are not finite. "
            "A score from such a model means nothing. Check the checkpoint for NaN weights, or run in fp32 (precision: fp32)."
        )


def check_reaches_pixels(loss_B: Tensor) -> None:
    """Raise `ModelError` when the loss was computed without a graph."""
    if not loss_B.requires_grad:
        raise ModelError(
            "No gradient reaches the pixels: something between image and loss detaches, or the attack runs inside "
            "torch.inference_mode(). Leave inference mode, or use an attack that needs no gradient."
        )
