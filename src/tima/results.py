"""Results: one JSON file for a model, a data set and a protocol, and a sidecar with the outcome of every image.

The JSON is a superset of CLIP_benchmark's record, so that its tables can be built from it. Fractions are in [0, 1], eps in
pixel units of [0, 1]. Its JSON Schema is `docs/schemas/result.schema.json`. The sidecar (`.safetensors`, same name) holds,
for `N` images, `E` eps and `G` gallery images:

- `index_N`, `label_N`, `clean_prediction_N`, `correct_N`, `robust_EN`;
- `image_hash_N` (int64): the first 8 bytes of each image's SHA-256, as the attack got it;
- `margin_EN`, `confidence_EN`, `prediction_EN` (E+1,N; row 0 is clean): label's logit minus the best other one, largest
  softmax share, and answer, on the image as attacked; an image broken at a smaller eps keeps that row's values;
- `broken_by_EN` (int8): which of the protocol's attacks broke the image at this eps, by number from 0; -1: none here;
- where the protocol asks, `broken_8bit_EN`: broken, and still so with 8 bits;
- with a gallery, `gallery_index`, `gallery_label`, `gallery_clean` (G,3,H,W uint8), `gallery_adv` (E,G,3,H,W float16),
  `gallery_prediction` and `gallery_confidence` (E+1,G; row 0 is clean).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tima._files import safe_name, write_json
from tima._provenance import versions
from tima._result_records import (
    AttackRecord,
    Clean,
    Health,
    Indicator,
    Margins,
    Metrics,
    Quarantined,
    Result,
    Robust,
    Verdict,
)
from tima.errors import ResultError
from tima.protocols import Protocol

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "tima-result/4"
READABLE = (
    "tima-result/1",
    "tima-result/2",
    "tima-result/3",
    SCHEMA,
)  # earlier ones lack what is optional in `_result_records.py`


def result_path(folder: str | Path, dataset: str, protocol: Protocol) -> Path:
    """`folder/results/<dataset>.<protocol>.json`. Changed protocols are all called `custom`; their hash tells them apart."""
    tail = f"{protocol.name}-{protocol.sha256[:8]}" if protocol.name == "custom" else protocol.name
    return Path(folder) / "results" / f"{safe_name(dataset)}.{tail}.json"


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


__all__ = [
    "READABLE",
    "SCHEMA",
    "AttackRecord",
    "Clean",
    "Health",
    "Indicator",
    "Margins",
    "Metrics",
    "Quarantined",
    "Result",
    "Robust",
    "Verdict",
    "load_results",
    "load_sidecar",
    "read_result",
    "result_path",
    "versions",
    "write_result",
]
