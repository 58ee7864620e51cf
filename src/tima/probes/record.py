"""`ProbeResult`: the schema of what a probe writes, and its reading and writing.

All values are fractions (similarity drops: cosine differences), all intervals 95 %, eps in pixel units of [0, 1].
"""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tima._files import write_json
from tima._provenance import machine, versions
from tima.errors import ResultError
from tima.evaluate import weights_sha256
from tima.models import DualEncoder
from tima.stats import wilson

SCHEMA = "tima-probe/1"


class Row(BaseModel):
    """One number of a probe with its interval."""

    model_config = ConfigDict(extra="forbid")

    name: str
    group: str = Field("", description="what the number belongs to: a direction, a corruption, a model")
    eps: float | None = Field(None, description="size of the attack; 0 or absent: no attack")
    severity: int | None = None
    n: int = Field(ge=1, description="how many images, captions or classes it was measured on")
    correct: int | None = Field(None, description="count, where the number is a proportion")
    value: float
    low: float
    high: float
    interval: Literal["wilson", "bootstrap"]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not all(map(math.isfinite, (self.low, self.value, self.high))) or not self.low <= self.value <= self.high:
            raise ValueError(f"{self.name}: {self.value} is not inside its interval {self.low} to {self.high}")
        if self.correct is not None and abs(self.correct / self.n - self.value) > 1e-9:
            raise ValueError(f"{self.name}: {self.correct} of {self.n} is not {self.value}")
        return self

    @classmethod
    def share(cls, name: str, hit_N: Any, worth: float | None = None, **where: Any) -> "Row":
        """A proportion with its Wilson interval, from one bool an image (or caption).

        Args:
            worth: how many independent outcomes these are worth (see `recall.worth`); all by default.
        """
        hit = np.asarray(hit_N, dtype=bool)
        correct, n = int(hit.sum()), int(hit.size)
        value = correct / n if n else 0.0
        low, high = wilson(correct, n) if worth is None else wilson(value * worth, worth)
        low, high = min(low, value), max(high, value)  # at the ends, where rounding would miss by 1e-17
        return cls(name=name, n=n, correct=correct, value=value, low=low, high=high, interval="wilson", **where)

    @classmethod
    def mean(cls, name: str, value_N: Any, over_N: Any = None, *, seed: int = 0, **where: Any) -> "Row":
        """A mean of one value an image, or (with `over_N`) the ratio of two means, by bootstrap over the images.

        Images, not single outcomes, are drawn again (Efron 1979): the outcomes of one image are not independent.
        """
        value = np.asarray(value_N, dtype=np.float64)
        n = len(value)
        under = np.ones(n) if over_N is None else np.asarray(over_N, dtype=np.float64)
        if n == 0 or under.sum() == 0:
            raise ResultError(f"{name}: there is nothing to average.")
        weight_RN = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=2000)
        below_R = weight_RN @ under
        drawn = (weight_RN @ value)[below_R > 0] / below_R[below_R > 0]
        middle = float(value.sum() / under.sum())
        low, high = (float(q) for q in np.quantile(drawn, [0.025, 0.975]))
        return cls(name=name, n=n, value=middle, low=min(low, middle), high=max(high, middle), interval="bootstrap", **where)


class ProbeResult(BaseModel):
    """Everything a probe found and what it was found with."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    schema_: Literal["tima-probe/1"] = Field("tima-probe/1", alias="schema")
    probe: Literal["retrieval", "targeted", "text", "corruptions"]
    about: str = Field(description="what was measured, in one sentence")
    model: str
    checkpoint_sha256: str
    data: str
    n: int = Field(ge=1, description="images used")
    seed: int
    settings: dict[str, Any]
    rows: list[Row]
    details: dict[str, Any] = Field(default_factory=dict, description="outcomes of single images, targets, edited names")
    quarantined: list[str] = Field(default_factory=list, description="pictures that could not be read, with the reason")
    seconds: float = 0
    created: str
    versions: dict[str, str]
    machine: dict[str, str]

    def find(self, name: str, **where: Any) -> Row:
        """The one row of that name, group, eps or severity."""
        rows = [r for r in self.rows if r.name == name and all(getattr(r, key) == v for key, v in where.items())]
        if len(rows) != 1:
            raise ResultError(f"{len(rows)} rows of the {self.probe} probe are called {name!r} with {where}.")
        return rows[0]


def provenance(model: DualEncoder, name: str | None = None) -> dict[str, Any]:
    """The fields that say which model, when, and on what."""
    return {
        "model": name or model.name,
        "checkpoint_sha256": weights_sha256(model),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(str(next(model.parameters()).device)),
    }


def write_probe(path: str | Path, result: ProbeResult) -> Path:
    """Write atomically."""
    write_json(path, result.model_dump(by_alias=True, mode="json"))
    return Path(path)


def read_probe(path: str | Path) -> ProbeResult:
    """Read and validate.

    Raises:
        ResultError: not there, not JSON, or not of this schema.
    """
    try:
        return ProbeResult(**json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ResultError(f"{path} is no probe result of schema {SCHEMA}: {why}. Run the probe again.") from error
