"""`Protocol`: everything that decides what a robust accuracy means, as one small object that cannot be changed."""

from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_serializer, field_validator

from tima._files import sha256_json
from tima.config import validate
from tima.eps import eps_text, parse_eps
from tima.errors import EpsError

# fields that say what is reported beside a number and cannot move it
BESIDE = frozenset({"about", "health_probe", "adversarial_8bit"})
COUNTS = frozenset({"steps", "restarts", "queries", "tries"})  # attack parameters of which there must be one at least


class Protocol(BaseModel):
    """How models are scored. Unchangeable; `override` makes a changed copy, which is then called `custom`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$", description="what tables call it")
    version: int = Field(ge=1, description="raised with every change that can move a number")
    about: str = Field(default="", description="for people; not part of the hash")
    templates: Literal["data set", "first"] | list[str] = Field(
        default="data set", description="the data set's own prompts, the first of them, or these"
    )
    duplicate_prompts: Literal["error", "merge", "keep"] = Field(
        default="error",
        description="classes that the model is asked with the same tokens, such as ImageNet's two cranes: refused; counted as "
        "one class; or left as they are, where rounding says which one wins",
    )
    pixel_grid: Literal["model input", "data set"] = Field(
        default="model input",
        description="where eps applies: the model's input after CLIP's preprocessing, or the pictures' own pixels, which are "
        "resized behind the attack (for sets whose pictures do not share one square size, the model's input)",
    )
    precision: Literal["fp32", "bf16"] = Field(
        default="fp32",
        description="of the attack; bf16: where the device has arithmetic for it. Images are always judged in fp32",
    )
    attack: str = Field(description="a name in tima.attacks.ATTACKS")
    attack_params: dict[str, Any] = Field(default={}, description="keywords of the attack")
    norm: Literal["l_inf", "l_2"] = Field(default="l_inf", description="how perturbations are measured")
    eps: list[float] = Field(min_length=1, description="pixel units of [0, 1], written '4/255'; stored from small to large")
    samples: int | None = Field(default=None, ge=1, description="images drawn with the seed; null: all")
    seed: int = Field(default=0, ge=0, description="of the draw and of the attack")
    health_probe: int = Field(default=32, ge=0, description="images on which attack health is looked at; 0: not at all")
    adversarial_8bit: bool = Field(
        default=False, description="also count which adversarial images still succeed when they are stored with 8 bits"
    )

    @field_validator("eps", mode="before")
    @classmethod
    def _read_eps(cls, value: Any, info: ValidationInfo) -> list[float]:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        parts = value if isinstance(value, (list, tuple)) else [value]
        sizes = sorted({_length(part) if info.data.get("norm") == "l_2" else parse_eps(part) for part in parts})
        if sizes and sizes[0] == 0:
            raise EpsError("eps 0 is no attack. The clean accuracy is measured in any case; leave the 0 out.")
        return sizes

    @field_validator("attack_params", mode="after")
    @classmethod
    def _read_step_size(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {k: parse_eps(v) if k == "step_size" and isinstance(v, str) else v for k, v in value.items()}

    @field_validator("attack_params", mode="after")
    @classmethod
    def _check_counts(cls, value: dict[str, Any]) -> dict[str, Any]:
        # now: the last attack of an ensemble would say so after hours, or never where the ones before leave it nothing
        for key in COUNTS & value.keys():
            if not isinstance(value[key], int) or value[key] < 1:
                raise ValueError(f"{key} must be a whole number from 1, not {value[key]!r}")
        return value

    @field_validator("templates", mode="after")
    @classmethod
    def _read_templates(cls, value: str | list[str]) -> str | list[str]:
        if isinstance(value, list) and (not value or any("{c}" not in template for template in value)):
            raise ValueError("give at least one prompt, each with {c} where the class name goes")
        return value

    @field_serializer("eps")
    def _write_eps(self, value: list[float]) -> list[str]:
        return [eps_text(eps) for eps in value]

    def content(self) -> dict[str, Any]:
        """Every field as JSON values, eps as text."""
        return self.model_dump(mode="json")

    @property
    def sha256(self) -> str:
        """Hash of every field that can move a number: equal hashes, comparable numbers."""
        content = {key: value for key, value in self.content().items() if key not in BESIDE}
        if self.duplicate_prompts == "error":  # as before there was a choice: published hashes stay
            del content["duplicate_prompts"]
        return sha256_json(content)

    def override(self, **fields: Any) -> "Protocol":
        """A copy with other fields, named `custom` unless nothing changed that can move a number.

        `attack_params` is replaced as a whole; another `attack` without new parameters drops the old one's.

        Raises:
            RecipeError: no such field, or a value that does not validate.
        """
        if "attack" in fields and fields["attack"] != self.attack:
            fields.setdefault("attack_params", {})
        changed: Protocol = validate(Protocol, {**self.content(), **fields}, f"Protocol {self.name} with changes")
        keys = [key for key in Protocol.model_fields if getattr(changed, key) != getattr(self, key)]
        if not keys:
            return self
        if set(keys) <= BESIDE:
            return changed
        about = f"{self.name} version {self.version} with another {', '.join(key for key in keys if key not in BESIDE)}"
        return changed.model_copy(update={"name": "custom", "about": about})

    def prompts(self, templates: tuple[str, ...]) -> list[str]:
        """The prompts that a data set with these templates is asked with."""
        if self.templates == "data set":
            return list(templates)
        return list(templates[:1]) if self.templates == "first" else list(self.templates)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def _length(value: Any) -> float:
    """An l_2 radius: like `parse_eps` without the upper limit, since it is the length of a whole image's change."""
    try:
        length = float(Fraction(str(value).strip()))
    except (ValueError, ZeroDivisionError):
        raise EpsError(f"eps {str(value)!r} is not a number. Write an l_2 radius as '0.5' or '128/255'.") from None
    if length < 0:
        raise EpsError(f"eps {value} is negative; it is a distance.")
    return length
