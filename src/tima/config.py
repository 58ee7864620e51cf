"""Recipes: every setting of a training run in one YAML file that is stored with the run and starts it again.

A recipe is read from YAML, then fields are overridden by `key=value` words (`lr=1e-4`, `attack.steps=3`,
`method_config.w_mhe=0`), then validated as a whole. Nothing else in the project holds a hidden setting.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from tima._reading import read_yaml_object
from tima.eps import eps_text, parse_eps
from tima.errors import RecipeError

Eps = Annotated[float, BeforeValidator(parse_eps), PlainSerializer(eps_text, return_type=str)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class AttackSettings(_Strict):
    """The inner maximisation: PGD from a random start, loss summed over the batch (Madry et al. 2018), or one cheap step."""

    kind: Literal["pgd", "fgsm", "n-fgsm"] = Field(
        default="pgd",
        description="fgsm: one step of 1.25 eps from a random start, back into the ball (Wong et al. 2020); n-fgsm: one "
        "step of eps from stronger noise, not projected (de Jorge et al. 2022). Both cost one forward and one backward pass",
    )
    steps: int = Field(default=2, ge=1, description="PGD steps; 2 is the field's habit, 10 is FARE's")
    step_size: Eps | None = Field(
        default=None, description="pixel units; None: eps for 1/255 and below, else min(eps, 2.5 eps / steps)"
    )
    noise: float = Field(default=2.0, ge=0, description="half-width of n-fgsm's uniform noise, as a multiple of eps")
    align: float = Field(
        default=0.0,
        ge=0,
        description="weight of GradAlign (Andriushchenko & Flammarion 2020): loss gradients at the clean and at a random point "
        "of the ball are kept parallel, which holds single-step training at larger eps. Costs two double backward passes",
    )
    restarts: int = Field(default=1, ge=1)
    keep_best: bool = Field(default=True, description="one more forward pass, to return the iterate of highest loss")


class LoraSettings(_Strict):
    """Low-rank adapters in place of the weights (Hu et al. 2021, arXiv 2106.09685); needs `pip install "tima[lora]"`."""

    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0, description="the product of the adapter's matrices is scaled by alpha / rank")
    tower: Literal["image", "text", "both"] = Field(
        default="both",
        description="where adapters take the place of the weights that the method trains",
    )
    targets: list[str] | None = Field(
        default=None,
        description="last names of layers, as [q_proj, v_proj]; None: every linear layer that the method trains",
    )


class PromptSettings(_Strict):
    """A learned frame added to the pixels (TeCoA's visual prompt, Mao et al. 2023, arXiv 2212.07016)."""

    size: int = Field(default=30, ge=1, description="width of the frame in pixels of the model's grid; published: 30 at 224 px")
    alone: bool = Field(default=False, description="the frame trains and the towers do not; False: both")
    init: float = Field(
        default=0.0,
        ge=0,
        description="standard deviation at the start, in normalised pixels. 0, ours: the first step sees the original; the "
        "published code draws 1",
    )
    lr_scale: float = Field(default=1.0, gt=0, description="learning rate of the frame relative to lr")


class AwpSettings(_Strict):
    """Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884): the gradient is taken where the weights are worst."""

    gamma: float = Field(default=0.005, gt=0, description="size of the perturbation relative to each weight matrix's norm")
    warmup: float = Field(default=0.0, ge=0, le=1, description="share of the steps before it sets in")


class TrainRecipe(_Strict):
    """Settings of `tima train`."""

    method: str = Field(default="tima", description="tima, tima-v1, tecoa, fare, tga-zsr, ...; `tima methods` lists them")
    method_config: dict[str, Any] = Field(default={}, description="fields of the method's own configuration")
    model: str = Field(default="nano", description="the dual encoder to start from: nano, a folder, a run or a hub name")
    data: str = Field(default="pictures", description="training set: a name or a folder; ':train' is implied")
    eps: Eps = Field(default=4 / 255, description="l_inf size of the training attack, pixel units of [0, 1]")
    eps_warmup: float = Field(
        default=0.2, ge=0, le=1, description="share of the steps over which eps grows from 0; early collapse is common without"
    )
    attack: AttackSettings = Field(default_factory=AttackSettings)
    steps: int = Field(default=600, ge=1, description="optimiser steps")
    batch_size: int = Field(default=128, ge=1, description="images per optimiser step, over all processes")
    accumulate: int = Field(default=1, ge=1, description="the batch is worked through in so many parts (gradient accumulation)")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-4, gt=0)
    text_lr_scale: float = Field(default=1.0, ge=0, description="learning rate of the text tower relative to the image tower's")
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup: float = Field(
        default=0.1, ge=0, le=1, description="share of the steps over which the learning rate grows; then cosine to zero"
    )
    clip_grad: float = Field(default=1.0, ge=0, description="largest gradient norm; 0 switches clipping off")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of a moving average of the weights, which is what is validated and saved"
    )
    mix: float = Field(
        default=1.0, gt=0, le=1, description="share of the tuned weights in what is saved; the rest is the original's (WiSE-FT)"
    )
    lora: LoraSettings | None = Field(default=None, description="low-rank adapters; lora.rank=8 switches them on")
    prompt: PromptSettings | None = Field(default=None, description="visual prompt; prompt.size=30 switches it on")
    awp: AwpSettings | None = Field(default=None, description="weight perturbation; awp.gamma=0.005 switches it on")
    augment: Literal["none", "flip", "crop"] = Field(default="crop", description="crop: random crop, aspect and flip")
    templates: list[str] = Field(default=["a photo of a {c}."], description="prompts of the class texts while training")
    max_classes: int | None = Field(
        default=None,
        ge=2,
        description="classes whose texts a step encodes: the labels of the batch and others drawn evenly; None: all. For many "
        "classes and methods that train the text tower (docs/scaling.md); the others encode their texts once for a run",
    )
    weigh_sample: bool = Field(
        default=True, description="a drawn class counts for those that were not drawn: losses are then right but for noise"
    )
    held_out_classes: float = Field(
        default=0.1, ge=0, lt=1, description="share of classes kept out of training: the zero-shot proxy"
    )
    val_images: float = Field(
        default=0.1, gt=0, lt=1, description="share of training images kept out, when the data set has no val split"
    )
    val_every: int = Field(default=100, ge=1, description="steps between validations")
    val_samples: int = Field(default=400, ge=1, description="images of each of the two validation sets, seeded")
    val_attack_steps: int = Field(default=10, ge=1)
    save_every: int = Field(default=50, ge=1, description="steps between checkpoints")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="bf16: autocast over fp32 weights; losses are always fp32. auto: bf16 where the device has arithmetic for "
        "it, else fp32, which is then the faster; the run stores which",
    )
    compile: bool = Field(
        default=False,
        description="torch.compile fuses CLIP's image tower, with precision bf16; costs a minute or two at the start, and a "
        "resumed run may differ in the last bits. Where no compiler works the run goes on without",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="keep one activation a layer and compute the others again: less memory, more time"
    )
    cache_teacher: int = Field(
        default=0, ge=0, description="MB for embeddings of the frozen original, kept by picture; for CPUs; augment none or flip"
    )
    trackers: list[str] = Field(default=[], description="Accelerate trackers: tensorboard, wandb, mlflow, trackio, ...")
    workers: int = Field(
        default=0, ge=0, description="processes that decode pictures; small sets are decoded once and kept instead"
    )
    seed: int = 0


def recipes_folder() -> Path:
    return Path(str(files("tima") / "recipes"))


def load_yaml(name: str | Path) -> dict[str, Any]:
    """A recipe by path, by the name of one that comes with the package, or by the run folder that stores it."""
    path = Path(name).expanduser()
    candidates = [path, path / "recipe.yaml", recipes_folder() / f"{name}.yaml"]
    found = next((c for c in candidates if c.is_file()), None)
    if found is None:
        known = ", ".join(sorted(p.stem for p in recipes_folder().glob("*.yaml")))
        raise RecipeError(f"Recipe '{name}' was not found: neither a file, nor a run, nor one of {known}.")
    return read_yaml_object(found, "settings")


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`["lr=1e-4", "attack.steps=3"]` on top of `values`; values are read as YAML."""
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise RecipeError(f"'{word}' is not an override. Write key=value, for example lr=1e-4 or attack.steps=3.")
        target = values
        *parents, last = key.split(".")
        for parent in parents:
            if target.get(parent) is None:  # also a modifier that a stored recipe has as `lora: null`
                target[parent] = {}
            target = target[parent]
            if not isinstance(target, dict):
                raise RecipeError(f"'{key}': '{parent}' is a single value, it has no fields.")
        target[last] = _read_scalar(text)
    return values


def _read_scalar(text: str) -> Any:
    for number in (int, float):  # YAML 1.1 reads 1e-4 as text
        try:
            return number(text)
        except ValueError:
            continue
    return yaml.safe_load(text)


def validate(model: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """Build `model` from `values`; pydantic's findings as one readable `RecipeError`."""
    try:
        return model(**values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(map(str, item["loc"])) or "(whole)"
            if item["type"] == "extra_forbidden":
                lines.append(f"{key}: there is no such setting. {_known(model, item['loc'])}")
            else:
                own = item["type"] == "value_error"  # a message of ours, which names the value where that helps
                given = "" if own or isinstance(item["input"], (dict, BaseModel)) else f" (given: {item['input']!r})"
                lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')}{given}")
        raise RecipeError(f"{where}:\n  " + "\n  ".join(lines)) from None


def _known(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """What could have been meant at `place`, and all that there is beside it."""
    for part in place[:-1]:
        field = model.model_fields.get(str(part))
        inner = [t for t in (get_args(field.annotation) or (field.annotation,)) if isinstance(t, type)] if field else []
        model = next((t for t in inner if issubclass(t, BaseModel)), model)
    meant = get_close_matches(str(place[-1]), model.model_fields, 2)
    advice = f"Did you mean {' or '.join(meant)}? " if meant else ""
    method = " Settings of the method stand under method_config." if "method_config" in model.model_fields else ""
    return f"{advice}Known: {', '.join(model.model_fields)}.{method}"


def train_recipe(source: str | Path | None, overrides: Sequence[str] = (), **fields: Any) -> TrainRecipe:
    """The recipe of a run: from YAML (or defaults), then `fields` that are not None, then `overrides`."""
    values = load_yaml(source) if source is not None else {}
    values.update({key: value for key, value in fields.items() if value is not None})
    return validate(TrainRecipe, apply_overrides(values, overrides), f"Recipe {source}" if source else "Settings")


def dump(recipe: BaseModel) -> str:
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
