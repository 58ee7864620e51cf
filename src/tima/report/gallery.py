"""The gallery: clean picture, what each model's attack added to it, the attacked picture, and what the models said.

Every model meets the perturbation that was made against it. The pictures are the first of the evaluation's seeded
list that all models share; nobody picked them. Shapes: `G` pictures, `E` eps, `C, H, W` channels and pixels.
"""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tima.report.comparison import Comparison, protocol_label, size_text
from tima.report.runs import Run, Stored

if TYPE_CHECKING:
    import numpy.typing as npt

LOSSLESS_SIDE = 128  # larger pictures are stored as WebP at high quality, or the page would weigh tens of megabytes


@dataclass(frozen=True)
class Answer:
    """What a model said: class name, confidence in [0, 1], and whether it is right."""

    name: str
    confidence: float
    right: bool


@dataclass(frozen=True)
class View:
    """One model on one picture. Without `clean` the model's gallery lacks this picture."""

    run: Run
    clean: Answer | None = None
    attacked: Answer | None = None
    perturbation: str = ""
    adversarial: str = ""
    changed: bool = True


@dataclass(frozen=True)
class Picture:
    """One row of the gallery."""

    label: str
    clean: str
    views: list[View]


@dataclass(frozen=True)
class Gallery:
    """The pictures of one data set, all at one eps."""

    data: str
    eps_text: str
    amplified: float
    pictures: list[Picture] = field(default_factory=list)


def galleries(comparison: Comparison, pictures: int = 3) -> list[Gallery]:
    """Up to `pictures` rows for each data set that has gallery images, in the order of the comparison's data sets."""
    found = []
    for block in comparison.data_sets:
        stored = [_stored(run, block.title, comparison) for run in comparison.runs]
        gallery = _gallery(comparison, block.title, stored, pictures)
        if gallery.pictures:
            found.append(gallery)
    return found


def _stored(run: Run, data: str, comparison: Comparison) -> Stored | None:
    for stored in run.results:
        same = stored.record.protocol.get("sha256") == comparison.protocol.get("sha256")
        if stored.record.dataset == data and same and protocol_label(stored.record.protocol) == comparison.label:
            return stored
    return None


def _gallery(comparison: Comparison, data: str, stored: list[Stored | None], pictures: int) -> Gallery:
    column = max(1, comparison.headline_column)
    eps = comparison.eps[column - 1]
    text = comparison.columns[column]
    gallery = Gallery(data, text, 1 / eps)
    sources = [_Source(s, text) if s is not None and _has_gallery(s.path) else None for s in stored]
    counts: dict[Any, tuple[int, int]] = {}
    for source in (s for s in sources if s):
        for key in source.rows:
            there, right = counts.get(key, (0, 0))
            counts[key] = (there + 1, right + source.right_when_clean(key))
    # pictures that every model has, then those that most models know: a wrong answer leaves nothing to attack
    keys = sorted(counts, key=lambda key: counts[key], reverse=True)[:pictures]  # stable: drawn order among equals
    for key in keys:
        first = next(source for source in sources if source and key in source.rows)
        pairs = zip(comparison.runs, sources, strict=True)
        views = [source.view(run, key, eps) if source else View(run) for run, source in pairs]
        gallery.pictures.append(Picture(first.label(key), data_uri(first.clean(key)), views))
    return gallery


def _has_gallery(path: Path) -> bool:
    from safetensors import safe_open

    sidecar = path.with_suffix(".safetensors")
    if not sidecar.is_file():
        return False
    with safe_open(sidecar, framework="numpy") as file:
        return "gallery_clean" in file.keys() and "gallery_adv" in file.keys()  # noqa: SIM118 (not a dict)


class _Source:
    """The gallery tensors of one result, at one eps (row `e` of E; None while that eps is unfinished)."""

    def __init__(self, stored: Stored, eps_text: str) -> None:
        from tima.results import load_sidecar

        self.record = stored.record
        wanted = {name: tensor.numpy() for name, tensor in load_sidecar(stored.path).items() if name.startswith("gallery")}
        self.tensors: dict[str, npt.NDArray[Any]] = wanted
        sizes = [size_text(row.eps, self.record.norm) for row in self.record.robust]
        self.e = sizes.index(eps_text) if eps_text in sizes else None
        keys = wanted["gallery_index"].tolist() if "gallery_index" in wanted else [p.tobytes() for p in wanted["gallery_clean"]]
        self.rows = {key: g for g, key in enumerate(keys)}

    def clean(self, key: Any) -> "npt.NDArray[np.uint8]":
        return np.asarray(self.tensors["gallery_clean"][self.rows[key]], dtype=np.uint8)

    def label(self, key: Any) -> str:
        return self.record.class_names[int(self.tensors["gallery_label"][self.rows[key]])]

    def right_when_clean(self, key: Any) -> bool:
        return self._answer(0, key).right

    def view(self, run: Run, key: Any, eps: float) -> View:
        if key not in self.rows:
            return View(run)
        clean = self._answer(0, key)
        if self.e is None:
            return View(run, clean)
        adv_CHW = self.tensors["gallery_adv"][self.e, self.rows[key]].astype(np.float32)
        clean_CHW = self.clean(key).astype(np.float32) / 255
        delta_CHW = adv_CHW - clean_CHW
        changed = bool(np.abs(delta_CHW).max() > eps / 20)  # float16 storage alone moves pixels by up to 1/4096
        amplified = to_uint8(0.5 + delta_CHW / (2 * eps))
        return View(run, clean, self._answer(self.e + 1, key), data_uri(amplified), data_uri(to_uint8(adv_CHW)), changed)

    def _answer(self, row: int, key: Any) -> Answer:
        g = self.rows[key]
        prediction = int(self.tensors["gallery_prediction"][row, g])
        right = prediction == int(self.tensors["gallery_label"][g])
        return Answer(self.record.class_names[prediction], float(self.tensors["gallery_confidence"][row, g]), right)


def to_uint8(image_CHW: "npt.NDArray[np.float32]") -> "npt.NDArray[np.uint8]":
    """[0, 1] to 0..255, rounded."""
    return np.rint(np.clip(image_CHW, 0, 1) * 255).astype(np.uint8)


def data_uri(image_CHW: "npt.NDArray[np.uint8]") -> str:
    """A picture that lives inside the page."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(image_CHW.transpose(1, 2, 0)))
    buffer = io.BytesIO()
    if max(image.size) <= LOSSLESS_SIDE:
        image.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        image.save(buffer, "WEBP", quality=90)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
