"""Data sets that could not be evaluated: a record of each, so that a table never leaves one out without a word.

`RUN/missing/<data set>.<protocol>.json`, beside `results` and not in it, where other tools expect results only. The record goes
away when the set is evaluated after all.
"""

import json
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tima._files import safe_name, write_json
from tima.errors import ResultError, TimaError
from tima.protocols import Protocol

SCHEMA: Literal["tima-missing/1"] = "tima-missing/1"


class Missing(BaseModel):
    """Why there is no result of one data set."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal["tima-missing/1"] = Field(SCHEMA, alias="schema")
    data: str = Field(description="as it was asked for: a name or a path")
    model: str
    protocol: str = Field(description="name@version")
    protocol_sha256: str
    kind: str = Field(description="class of the error")
    why: str
    traceback: str | None = Field(None, description="of an error that has no message for people")
    when: str


def missing_path(folder: str | Path, data: str, protocol: Protocol) -> Path:
    """Where the record of a data set under a protocol lies."""
    name = safe_name(data).strip("-")[-120:]
    return Path(folder) / "missing" / f"{name}.{protocol.name}-{protocol.sha256[:8]}.json"


def describe(error: Exception) -> str:
    """What happened, for people: the message of a `TimaError` as it is, else the error's class and first line."""
    if isinstance(error, TimaError):
        return str(error)
    line = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return f"{type(error).__name__}: {line}"


def record_missing(folder: str | Path, data: str, protocol: Protocol, model: str, error: Exception) -> Missing:
    """Write the record of a failure, atomically."""
    found = Missing(
        schema=SCHEMA,
        data=data,
        model=model,
        protocol=str(protocol),
        protocol_sha256=protocol.sha256,
        kind=type(error).__name__,
        why=describe(error),
        traceback=None if isinstance(error, TimaError) else "".join(traceback.format_exception(error)),
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(missing_path(folder, data, protocol), found.model_dump(mode="json", by_alias=True))
    return found


def forget_missing(folder: str | Path, data: str, protocol: Protocol) -> None:
    """The set has been evaluated after all."""
    path = missing_path(folder, data, protocol)
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def read_missing(folder: str | Path) -> list[Missing]:
    """All records of a run, by file name; none where nothing is missing.

    Raises:
        ResultError: one of them is damaged.
    """
    found = []
    for path in sorted((Path(folder) / "missing").glob("*.json")):
        try:
            found.append(Missing(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError, ValidationError) as error:
            raise ResultError(f"{path} is no record of a missing data set ({describe(error)}). Delete it.") from error
    return found
