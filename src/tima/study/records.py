"""What is kept of a study: one small JSON file from which every page can be made again, image by image.

One line a run. Outcomes of images are bitmaps, one bit an image in the order of the image's index in its set, most significant
bit first, in base64: 250 images at five columns take 250 characters. They are what paired tests need. Everything else is
copied from the runs' own files, whose SHA-256 stand beside it.
"""

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tima._files import write_text
from tima.errors import ResultError

if TYPE_CHECKING:
    import numpy.typing as npt

SCHEMA = "tima-study/1"
CLEAN = "clean"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeptResult(_Record):
    """One result file: a run on a data set under a protocol. Columns are `clean` and the protocol's eps, as text.

    `images_sha256`: of index and label of every image, class names and prompts; equal hashes can be compared in pairs.
    `offsets`: column -> (mean, standard deviation, images) of the fall of the margin from the smallest eps to that one, over
    the images that withstand both. `margin_similarity`: column -> correlation, see `tima.results`. `commonest`: share of the
    images that get the answer given most often, without an attack; None in files kept before it was counted.
    """

    data: str
    protocol: str
    file: str
    sha256: str
    sidecar_sha256: str
    checkpoint_sha256: str
    n: int = Field(ge=1)
    classes: int
    images_sha256: str
    train_domain: bool
    right: dict[str, str]
    correct: dict[str, int]
    margin_similarity: dict[str, float] = {}
    median_margin: dict[str, float] = {}
    offsets: dict[str, tuple[float, float, int]] = {}
    suspicious: dict[str, str] = {}
    fallbacks: list[str] = []
    commonest: float | None = None
    forwards: int
    backwards: int
    wall_time_s: float
    finished: str | None

    @model_validator(mode="after")
    def _bits_add_up(self) -> "KeptResult":
        for column, text in self.right.items():
            if int(unpack(text, self.n).sum()) != self.correct.get(column):
                raise ValueError(f"{self.file}: the outcomes of {column} do not add up to the number of right images")
        return self

    def outcomes(self, column: str) -> "npt.NDArray[np.bool_]":
        """Whether each image is right, `N`."""
        return unpack(self.right[column], self.n)


class KeptFailure(_Record):
    """Something that was not finished: `train` or an evaluation, and why."""

    what: str
    kind: str
    message: str


class KeptRun(_Record):
    """One final run of a row. `state`: finished, collapsed (it gives one answer to everything), failed, or open; `taken_from`:
    the study that it was done in, where it was taken from a kept file."""

    row: str
    key: str
    eps: str
    data: str
    seed: int
    state: Literal["finished", "collapsed", "failed", "open"]
    recipe: dict[str, Any]
    recipe_sha256: str = ""
    summary: dict[str, Any] = {}
    cost: dict[str, Any] = {}
    texts: dict[str, dict[str, float]] = {}
    results: list[KeptResult] = []
    failures: list[KeptFailure] = []
    taken_from: str = ""


class KeptSearch(_Record):
    """A search: its points, their scores on validation (null: failed or collapsed, see the note), the number of the winner.

    `val`: what the scores are made of, by validation set; by another rule it gives other scores. Null where a trial failed or
    was taken from a file that was kept before it was, as all of such a file's are.
    """

    points: list[dict[str, Any]]
    keys: list[str]
    scores: list[float | None]
    notes: list[str]
    val: list[dict[str, Any] | None] = []
    winner: int | None


class Store(_Record):
    """A whole study. `study`: its file; `headline`: names of rows, with the best of the rest; `protocols`, `asked`: by hash,
    what is judged and on which sets; `headline_only`: hashes of protocols that only the headline rows are judged by.
    """

    schema_: Literal["tima-study/1"] = Field(default="tima-study/1", alias="schema")
    study: dict[str, Any]
    headline: list[str]
    protocols: dict[str, dict[str, Any]]
    asked: dict[str, list[str]]
    headline_only: list[str]
    searches: dict[str, KeptSearch]
    runs: list[KeptRun]


def pack(right_N: Any) -> str:
    """Booleans as a bitmap in base64."""
    return base64.b64encode(np.packbits(np.asarray(right_N, dtype=bool)).tobytes()).decode()


def unpack(text: str, n: int) -> "npt.NDArray[np.bool_]":
    """The first `n` bits of a bitmap.

    Raises:
        ValueError: not base64, or another number of images.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(packed) != (n + 7) // 8:
        raise ValueError(f"a bitmap of {len(packed)} bytes cannot hold {n} images")
    return np.unpackbits(packed, count=n).astype(bool)


def write_store(path: str | Path, store: Store) -> None:
    """Write atomically, one line a run, so that a change of one run is a change of one line."""
    value = store.model_dump(mode="json", by_alias=True)
    runs = value.pop("runs")
    parts = [f"{json.dumps(key)}: {json.dumps(part, indent=1, ensure_ascii=False)}" for key, part in value.items()]
    lines = ",\n".join(json.dumps(run, ensure_ascii=False, separators=(",", ":")) for run in runs)
    write_text(path, "{\n" + ",\n".join(parts) + f',\n"runs": [\n{lines}\n]\n}}\n')


def read_store(path: str | Path) -> Store:
    """Read and validate.

    Raises:
        ResultError: not there, not JSON, another schema, or outcomes that contradict their counts.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}. Make it with: tima study FILE") from error
    except ValueError as error:
        raise ResultError(f"{path} is not valid JSON ({error}). Make it again: tima study FILE --report") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise ResultError(f"{path} is no stored study that this version reads; its schema should be '{SCHEMA}'.")
    try:
        return Store(**value)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]]
        raise ResultError(f"{path} contradicts itself or its schema:\n  " + "\n  ".join(lines)) from None
