"""Typos in class names: how much of the accuracy hangs on the spelling, for a tuned text tower and for the original.

For each class the worst of several edited names is searched, worst meaning the lowest accuracy over all images when this one
name is edited, then the lowest similarity to the name as it was. `random` draws names of `budget` edits (the same for every
model, so that similarity drops compare); `greedy` makes one edit at a time and keeps the worst.
Shapes: `N` images, `C` classes, `V` variants of one name, `D` embedding width.
"""

import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tima.data.image_set import ImageSet
from tima.errors import RecipeError
from tima.models import DualEncoder, encode_classes
from tima.probes.edits import EDITS, acceptable, check_edits, edit_once, variants
from tima.probes.pictures import Progress, embed, finite, load_pixels, sampled, silent
from tima.probes.record import ProbeResult, Row, provenance


@dataclass(frozen=True)
class TextFound:
    """The worst names of one model and what they did to it."""

    clean_N: Tensor
    names: list[str]
    one_CN: Tensor  # right or not, with only class c edited
    all_N: Tensor
    drop_C: Tensor  # 1 - cosine of the worst name to the original
    drawn_C: Tensor  # mean of that over all names tried


def right_with(image_ND: Tensor, text_CD: Tensor, label_N: Tensor, c: int, variant_VD: Tensor) -> Tensor:
    """`VxN`: is the image still answered rightly when class `c` has this text? A tie counts as wrong."""
    similarity_NC = image_ND @ text_CD.T
    new_VN = (image_ND @ variant_VD.T).T
    rest_NC = similarity_NC.clone()
    rest_NC[:, c] = -torch.inf
    own_N1 = rest_NC.gather(1, label_N[:, None])
    rival_N = rest_NC.scatter(1, label_N[:, None], -torch.inf).amax(1)
    others_VN = (own_N1[:, 0] > rival_N) & (own_N1[:, 0] > new_VN)
    return torch.where(label_N == c, new_VN > rival_N, others_VN)


@torch.no_grad()
def attack_names(
    model: DualEncoder,
    image_ND: Tensor,
    label_N: Tensor,
    class_names: Sequence[str],
    templates: Sequence[str],
    *,
    budget: int = 1,
    tries: int = 32,
    search: str = "random",
    edits: Sequence[str] = EDITS,
    seed: int = 0,
    progress: Progress = silent,
) -> TextFound:
    """Search the worst edited name of every class.

    Raises:
        RecipeError: a budget or number of tries below 1, another search, a class with no acceptable variant.
    """
    if budget < 1 or tries < 1 or search not in ("random", "greedy"):
        raise RecipeError(f"budget {budget}, tries {tries}, search '{search}': take 1 or more, and random or greedy.")
    edits = check_edits(edits)
    text_CD = finite(encode_classes(model, class_names, templates), "embeddings of texts")
    names, one, drops, drawn, worst = [], [], [], [], []
    for c, name in enumerate(class_names):
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])  # the draws of a name are its own
        others = [other for other in class_names if other != name]
        best: tuple[tuple[int, float], str, Tensor, Tensor] | None = None
        seen: list[Tensor] = []
        rounds = budget if search == "greedy" else 1
        for step in range(rounds):
            number = max(1, tries // rounds)
            if search == "random":
                candidates = variants(name, budget, number, rng, edits=edits, others=others)
            else:
                base = best[1] if best else name
                drafts = [edit_once(base, rng, edits) for _ in range(20 * number)]
                candidates = list(dict.fromkeys(d for d in drafts if acceptable(d, name, others)))[:number]
            if not candidates:
                continue
            variant_VD = finite(encode_classes(model, candidates, templates), "embeddings of texts")
            right_VN = right_with(image_ND, text_CD, label_N, c, variant_VD)
            cosine_V = variant_VD @ text_CD[c]
            seen.append(1 - cosine_V)
            for v, candidate in enumerate(candidates):
                key = (int(right_VN[v].sum()), float(cosine_V[v]))
                if best is None or key < best[0]:
                    best = (key, candidate, right_VN[v], variant_VD[v])
            progress("names", c * rounds + step + 1, len(class_names) * rounds)
        if best is None:
            raise RecipeError(f"No acceptable edit of the class name '{name}' was found; raise tries or allow more edits.")
        names.append(best[1])
        one.append(best[2])
        worst.append(best[3])
        drops.append(1 - best[3] @ text_CD[c])
        drawn.append(torch.cat(seen).mean())
    all_N = (image_ND @ torch.stack(worst).T).argmax(1) == label_N
    clean_N = (image_ND @ text_CD.T).argmax(1) == label_N
    return TextFound(clean_N, names, torch.stack(one), all_N, torch.stack(drops), torch.stack(drawn))


def text_rows(found: TextFound, group: str, seed: int) -> list[Row]:
    """The numbers of one model."""
    weakest = int(found.one_CN.sum(1).argmin())
    return [
        Row.share("accuracy, names as they are", found.clean_N.cpu().numpy(), group=group),
        Row.mean("accuracy, one name edited (mean)", found.one_CN.float().mean(0).cpu().numpy(), group=group, seed=seed),
        Row.share("accuracy, one name edited (worst)", found.one_CN[weakest].cpu().numpy(), group=group),
        Row.share("accuracy, all names edited", found.all_N.cpu().numpy(), group=group),
        Row.mean("similarity drop, worst name", found.drop_C.cpu().numpy(), group=group, seed=seed),
        Row.mean("similarity drop, names tried", found.drawn_C.cpu().numpy(), group=group, seed=seed),
    ]


def probe_text(
    model: DualEncoder,
    data: ImageSet,
    *,
    reference: DualEncoder | None = None,
    budget: int = 1,
    tries: int = 32,
    search: str = "random",
    edits: Sequence[str] = EDITS,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    model_name: str | None = None,
    progress: Progress = silent,
) -> ProbeResult:
    """Accuracy and similarity under edited class names; with `reference` (the original) the same for that model."""
    began = time.monotonic()
    chosen, _ = sampled(data, samples, seed)
    rows: list[Row] = []
    details: dict[str, object] = {"class_names": data.class_names}
    subjects = {"model": model} if reference is None else {"model": model, "reference": reference}
    for group, subject in subjects.items():
        pixel_NCHW, index_N, bad = load_pixels(chosen.at_size(subject.image_size))
        image_ND = embed(subject, pixel_NCHW, batch_size)
        label_N = chosen.label_B[index_N].to(image_ND.device)
        words = {"budget": budget, "tries": tries, "search": search, "edits": edits, "seed": seed, "progress": progress}
        found = attack_names(subject, image_ND, label_N, data.class_names, data.templates, **words)  # type: ignore[arg-type]
        rows += text_rows(found, group, seed)
        details[group] = {"edited": found.names, "similarity_drop": [round(float(d), 6) for d in found.drop_C]}
    settings = {"budget": budget, "tries": tries, "search": search, "edits": list(edits), "templates": list(data.templates)}
    if reference is not None:
        settings |= {"reference": reference.name, "reference_sha256": provenance(reference)["checkpoint_sha256"]}
    return ProbeResult(
        probe="text",
        about="Zero-shot accuracy when class names are misspelt; the worst of the names tried.",
        data=data.name,
        n=len(label_N),
        seed=seed,
        settings=settings,
        rows=rows,
        details=details,
        quarantined=bad,
        seconds=round(time.monotonic() - began, 2),
        **provenance(model, model_name),
    )
