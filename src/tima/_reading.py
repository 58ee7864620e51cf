"""Settings and records from files: an object, or an error that says which file, what is wrong with it and what to do."""

import json
from pathlib import Path
from typing import Any

import yaml

from tima.errors import RecipeError, ResultError


def read_yaml_object(path: Path, what: str) -> dict[str, Any]:
    """The 'key: value' lines of a YAML file that holds `what` (settings, a protocol).

    Raises:
        RecipeError: not YAML, or something else than such lines.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path} holds no {what}: it must be a list of 'key: value' lines.")
    return value


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        remedy: a sentence on what to do about a file that cannot be read.

    Raises:
        ResultError: not readable, or something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} cannot be read: {error}. {remedy}") from error
    if not isinstance(value, dict):
        raise ResultError(f"{path} should hold one JSON object, but holds a {type(value).__name__}.")
    return value
