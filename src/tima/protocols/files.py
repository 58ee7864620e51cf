"""Protocols as YAML files: those that come with the package, and yours."""

from importlib.resources import files
from pathlib import Path

from tima._reading import read_yaml_object
from tima.config import validate
from tima.errors import RecipeError
from tima.protocols.protocol import Protocol


def protocols_folder() -> Path:
    """Where the protocols that come with the package lie."""
    return Path(str(files("tima") / "protocols"))


def known_protocols() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted(path.stem for path in protocols_folder().glob("*.yaml"))


def load_protocol(name_or_path: str | Path) -> Protocol:
    """A protocol by the name of one that comes with the package, or by the path of a YAML file.

    Raises:
        RecipeError: not found, not YAML, fields that do not validate, or the name of another protocol.
    """
    shipped, path = protocols_folder() / f"{name_or_path}.yaml", Path(name_or_path).expanduser()
    found = next((place for place in (shipped, path) if place.is_file()), None)
    if found is None:
        raise RecipeError(f"Protocol '{name_or_path}' was not found: neither a file nor one of {', '.join(known_protocols())}.")
    return _own_name(validate(Protocol, read_yaml_object(found, "protocol"), f"Protocol {found}"), found)


def check_protocol(path: str | Path) -> Protocol:
    """Like `load_protocol`, and the attack must exist with these parameters. What a shipped protocol is called is no path.

    Raises:
        RecipeError: what is wrong, field by field.
    """
    from tima.attacks import check_stages, find_stages

    path = Path(path).expanduser()
    if not path.is_file():
        raise RecipeError(f"{path} is not there. Give the path of a protocol's YAML file.")
    protocol = _own_name(validate(Protocol, read_yaml_object(path, "protocol"), f"Protocol {path}"), path)
    try:
        check_stages(find_stages(protocol.attack, protocol.attack_params), protocol.norm)
    except RecipeError as error:
        raise RecipeError(f"Protocol {path}:\n  attack: {error}") from None
    return protocol


def _own_name(protocol: Protocol, path: Path) -> Protocol:
    """Refuses the name of a shipped protocol for anything else: tables would call its numbers by that name."""
    shipped = protocols_folder() / f"{protocol.name}.yaml"
    if path != shipped and shipped.is_file() and load_protocol(protocol.name).sha256 != protocol.sha256:
        raise RecipeError(
            f"Protocol {path}:\n  name: '{protocol.name}' is the name of a protocol that comes with the package and says "
            "something else. Give yours a name of its own."
        )
    return protocol
