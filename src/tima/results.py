"""Results: one JSON file for a model, a data set and a protocol, and a sidecar with the outcome of every image.

The JSON is a superset of CLIP_benchmark's record, so that its tables can be built from it. Fractions are in [0, 1], eps in
pixel units of [0, 1]. The sidecar (`.safetensors`, same name) holds, for `N` images, `E` eps and `G` gallery images:
`index_N`, `label_N`, `clean_prediction_N`, `correct_N`, `robust_EN` and, with a gallery, `gallery_index`, `gallery_clean`
(G,3,H,W uint8), `gallery_adv` (E,G,3,H,W float16), `gallery_prediction` and `gallery_confidence` (E+1,G; row 0 is clean)
and `gallery_label`.
"""

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tima._files import write_json
from tima.errors import ResultError
from tima.protocols import Protocol

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "tima-result/2"
READABLE = ("tima-result/1", SCHEMA)  # version 1 lacks what is optional below
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    def __getitem__(self, key: str) -> Any:
        """`result["clean"]["accuracy"]`, as in the JSON file."""
        for name, info in type(self).model_fields.items():
            if key in (info.alias, name):
                return getattr(self, name)
        raise KeyError(key)


class Metrics(_Record):
    """CLIP_benchmark's clean metrics. `acc5` is null below five classes."""

    acc1: Share
    acc5: Share | None
    mean_per_class_recall: Share


class Margins(_Record):
    """Label's logit minus the best other one, over the images: a histogram (one edge more than counts) and its centre."""

    mean: float
    median: float
    edges: list[float]
    counts: list[Count]


class Clean(_Record):
    """`ece`: expected calibration error. `correct_per_class`: in the order of `class_names`."""

    n: Count
    correct: Count
    accuracy: Share
    ci95: tuple[Share, Share]
    ece: Share | None = None
    correct_per_class: list[Count] | None = None
    margins: Margins | None = None


class AttackRecord(_Record):
    """One attack of the protocol: how many images it broke that nothing before it had broken, and what that cost."""

    name: str
    params: dict[str, Any]
    broken: Count
    attacked: Count | None = None
    forwards: Count | None = None
    backwards: Count | None = None
    wall_time_s: float | None = None


class Indicator(_Record):
    """One sign of attack health. `value` is null where it could not be measured, and `note` says why."""

    name: str
    value: float | None
    limit: float | None = None
    fired: bool
    note: str = ""


class Health(_Record):
    """Whether the attack can be believed: `reliable`, or `suspicious` with a reason for each indicator that fired."""

    verdict: Literal["reliable", "suspicious"]
    reasons: list[str] = []
    indicators: list[Indicator] = []
    probe_n: Count = 0

    def __str__(self) -> str:
        return self.verdict if not self.reasons else f"{self.verdict}: {'; '.join(self.reasons)}"


class Robust(_Record):
    """The outcome at one eps. `already_broken`: wrong when clean or broken at a smaller eps, so not attacked again.

    `margin_similarity`: Pearson's correlation of an image's margin with the cosine of its class text to the nearest other one.
    """

    eps: float = Field(gt=0)
    eps_text: str
    n: Count
    correct: Count
    robust_accuracy: Share
    ci95: tuple[Share, Share]
    already_broken: Count
    attacks: list[AttackRecord]
    forwards: Count
    backwards: Count
    wall_time_s: float = Field(ge=0)
    ece: Share | None = None
    correct_per_class: list[Count] | None = None
    margins: Margins | None = None
    margin_similarity: float | None = None
    health: Health | None = None


class Quarantined(_Record):
    where: str
    why: str


class Result(_Record):
    """What was measured, on what, how and with which code."""

    schema_: Literal["tima-result/1", "tima-result/2"] = Field(default="tima-result/2", alias="schema")
    dataset: str
    model: str
    pretrained: str
    task: Literal["zeroshot_classification"] = "zeroshot_classification"
    language: str = "en"
    metrics: Metrics
    clean: Clean
    robust: list[Robust] = []
    attack: str
    norm: str
    n: Count
    seed: int
    class_names: list[str]
    class_counts: list[Count] | None = None
    margin_similarity: float | None = None
    templates: list[str]
    protocol: dict[str, Any]
    checkpoint_sha256: str
    versions: dict[str, str]
    quarantine: list[Quarantined] = []
    train_domain: bool = False
    wall_time_s: float = Field(ge=0)
    complete: bool = False
    finished: str | None = None

    @model_validator(mode="after")
    def _order_of_truth(self) -> "Result":
        """Robust accuracy never exceeds clean accuracy nor that of a smaller eps, and all count the same images."""
        previous, where = self.clean.correct, "clean"
        if self.clean.n != self.n or any(r.n != self.n for r in self.robust):
            raise ValueError("the counts of images differ within the result")
        for row in self.robust:
            if row.correct > previous:
                raise ValueError(f"{row.correct} correct at eps {row.eps_text}, but only {previous} at {where}")
            previous, where = row.correct, row.eps_text
        if [row.eps for row in self.robust] != sorted({row.eps for row in self.robust}):
            raise ValueError("the eps are not in rising order")
        if self.complete and len(self.robust) != len(self.protocol.get("eps", [])):
            raise ValueError(f"marked complete with {len(self.robust)} of {len(self.protocol.get('eps', []))} eps")
        return self

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in the file."""
        return self.model_dump(mode="json", by_alias=True)


def result_path(folder: str | Path, dataset: str, protocol: Protocol) -> Path:
    """`folder/results/<dataset>.<protocol>.json`. Changed protocols are all called `custom`; their hash tells them apart."""
    tail = f"{protocol.name}-{protocol.sha256[:8]}" if protocol.name == "custom" else protocol.name
    return Path(folder) / "results" / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', dataset)}.{tail}.json"


def write_result(path: str | Path, result: Result) -> None:
    """Write atomically, validated once more: the old file stays until the new one is whole.

    Raises:
        ResultError: values that contradict each other.
    """
    write_json(path, _validated(result.to_json(), path).to_json())


def read_result(path: str | Path) -> Result:
    """Read and validate.

    Raises:
        ResultError: not there, not JSON, another schema, or values that contradict each other.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"{path} is not valid JSON ({error}). Delete it and evaluate again.") from error
    if not isinstance(value, dict) or value.get("schema") not in READABLE:
        found = value.get("schema") if isinstance(value, dict) else None
        raise ResultError(f"{path} is no result that this version reads: its schema is {found!r}, not '{SCHEMA}'.")
    return _validated(value, path)


def _validated(value: dict[str, Any], path: str | Path) -> Result:
    try:
        return Result(**value)
    except ValidationError as error:
        found = [(".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors()]
        lines = [f"{place}: {why}" if place else why for place, why in found]
        raise ResultError(f"{path} contradicts itself or its schema:\n  " + "\n  ".join(lines)) from None


def load_results(run_folder: str | Path) -> list[Result]:
    """Every result of a run, by file name; unfinished ones too (`complete` is false).

    Raises:
        ResultError: no results there, or one that cannot be read.
    """
    folder = Path(run_folder) / "results"
    paths = sorted(p for p in folder.glob("*.json") if not p.name.startswith("."))
    if not paths:
        raise ResultError(f"{folder} holds no results. Make some: tima evaluate --model {run_folder}")
    return [read_result(path) for path in paths]


def load_sidecar(result_json: str | Path) -> "dict[str, Tensor]":
    """The tensors beside a result (see the module's docstring).

    Raises:
        ResultError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(result_json).with_suffix(".safetensors")
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise ResultError(f"{path} cannot be read ({error}). Delete {Path(result_json).name} and evaluate again.") from error


def versions() -> dict[str, str]:
    """Versions that a number may depend on."""
    found = {"python": platform.python_version()}
    for package in ("tima", "torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
