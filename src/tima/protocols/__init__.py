"""Protocols: everything that decides what a robust accuracy means, in one small versioned YAML file each.

A number without its protocol is not comparable with anything; results therefore carry the whole protocol and its hash.
"""

import hashlib
import json
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_serializer, field_validator

from tima.config import validate
from tima.eps import eps_text, parse_eps
from tima.errors import EpsError, RecipeError


class Protocol(BaseModel):
    """How models are scored. Unchangeable; `override` makes a changed copy, which is then called `custom`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    version: int = Field(ge=1, description="raised with every change that can move a number")
    about: str = Field(default="", description="for people; not part of the hash")
    templates: Literal["data set"] | list[str] = Field(default="data set", description="the data set's own prompts, or these")
    pixel_grid: Literal["model input"] = Field(default="model input", description="the grid on which eps applies")
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="of the attack; images are always judged in fp32")
    attack: str = Field(description="a name in tima.attacks.ATTACKS")
    attack_params: dict[str, Any] = Field(default={}, description="keywords of the attack")
    norm: Literal["l_inf", "l_2"] = "l_inf"
    eps: list[float] = Field(min_length=1, description="pixel units of [0, 1], written '4/255'; stored from small to large")
    samples: int | None = Field(default=None, ge=1, description="images drawn with the seed; null: all")
    seed: int = Field(default=0, ge=0)

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

    @field_serializer("eps")
    def _write_eps(self, value: list[float]) -> list[str]:
        return [eps_text(eps) for eps in value]

    def content(self) -> dict[str, Any]:
        """Every field as JSON values, eps as text."""
        return self.model_dump(mode="json")

    @property
    def sha256(self) -> str:
        """Hash of everything but `about`: equal hashes, comparable numbers."""
        content = {key: value for key, value in self.content().items() if key != "about"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def override(self, **fields: Any) -> "Protocol":
        """A copy with other fields, named `custom` unless nothing changed.

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
        about = f"{self.name} version {self.version} with another {', '.join(keys)}"
        return changed.model_copy(update={"name": "custom", "about": about})

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


def protocols_folder() -> Path:
    """Where the protocols that come with the package lie."""
    return Path(str(files("tima") / "protocols"))


def known_protocols() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted(path.stem for path in protocols_folder().glob("*.yaml"))


def load_protocol(name_or_path: str | Path) -> Protocol:
    """A protocol by the name of one that comes with the package, or by the path of a YAML file.

    Raises:
        RecipeError: not found, not YAML, or fields that do not validate.
    """
    shipped, path = protocols_folder() / f"{name_or_path}.yaml", Path(name_or_path).expanduser()
    found = next((place for place in (shipped, path) if place.is_file()), None)
    if found is None:
        raise RecipeError(f"Protocol '{name_or_path}' was not found: neither a file nor one of {', '.join(known_protocols())}.")
    try:
        values = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{found} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{found} holds no protocol: it must be a list of 'key: value' lines.")
    protocol: Protocol = validate(Protocol, values, f"Protocol {found}")
    return protocol


def _length(value: Any) -> float:
    """An l_2 radius: like `parse_eps` without the upper limit, since it is the length of a whole image's change."""
    try:
        length = float(Fraction(str(value).strip()))
    except (ValueError, ZeroDivisionError):
        raise EpsError(f"eps {str(value)!r} is not a number. Write an l_2 radius as '0.5' or '128/255'.") from None
    if length < 0:
        raise EpsError(f"eps {value} is negative; it is a distance.")
    return length
