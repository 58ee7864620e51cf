"""Mean corruption accuracy: zero-shot accuracy under 15 common corruptions x 5 severities, computed on the fly.

Source: Hendrycks & Dietterich 2019, arXiv 1903.12261. Accuracies, and their ratio to the clean one, in place of the paper's
mCE, which is relative to AlexNet's errors. Corruptions are applied at the model's input size.
Shapes: `N` images, `K` corruptions, `V` severities.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tima.data.image_set import ImageSet
from tima.errors import RecipeError
from tima.models import DualEncoder, encode_classes
from tima.probes.corruptions import CORRUPTIONS, corrupt, table_for
from tima.probes.pictures import Progress, chunks, embed, finite, load_pixels, sampled, silent
from tima.probes.record import ProbeResult, Row, provenance

DEPARTURES = ["frost: a drawn texture instead of the published photographs", "accuracies instead of mCE (no AlexNet errors)"]


def probe_corruptions(
    model: DualEncoder,
    data: ImageSet,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    table: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    model_name: str | None = None,
    progress: Progress = silent,
) -> ProbeResult:
    """Accuracy for each corruption and severity, each corruption's mean, and the mean over all.

    Args:
        table: `imagenet-c` or `cifar-c` severities; by default by the model's input size.

    Raises:
        RecipeError: no such corruption, severity or table.
    """
    began = time.monotonic()
    if not corruptions or not severities:
        raise RecipeError("Name at least one corruption and one severity.")
    if unknown := [name for name in corruptions if name not in CORRUPTIONS]:
        raise RecipeError(f"There is no corruption {', '.join(unknown)}. Known are: {', '.join(CORRUPTIONS)}.")
    table = table or table_for(model.image_size)
    chosen, whole_N = sampled(data, samples, seed)
    image_NCHW, index_N, bad = load_pixels(chosen)
    whole_N = whole_N[index_N]
    with torch.no_grad():
        text_CD = finite(encode_classes(model, data.class_names, data.templates), "embeddings of texts")
    label_N = chosen.label_B[index_N].to(text_CD.device)

    def right(pixel_NCHW: Tensor) -> np.ndarray:
        image_ND = embed(model, pixel_NCHW, batch_size)
        return ((image_ND @ text_CD.T).argmax(1) == label_N).cpu().numpy()

    clean_N = right(image_NCHW)
    rows, total = [Row.share("accuracy", clean_N, group="clean")], len(corruptions) * len(severities) * len(label_N)
    right_KVN = np.zeros((len(corruptions), len(severities), len(label_N)), dtype=bool)
    picture_NHWC, done = image_NCHW.permute(0, 2, 3, 1).numpy(), 0
    for k, name in enumerate(corruptions):
        for v, severity in enumerate(severities):
            out_NCHW = torch.empty_like(image_NCHW)
            for part in chunks(len(label_N), 16):
                for i in range(part.start, part.stop):
                    made = corrupt(picture_NHWC[i], name, severity, seed=seed, index=int(whole_N[i]), table=table)
                    out_NCHW[i] = torch.from_numpy(made).permute(2, 0, 1)
                done += part.stop - part.start
                progress("corrupt", done, total)
            right_KVN[k, v] = right(out_NCHW)
            rows.append(Row.share("accuracy", right_KVN[k, v], group=name, severity=severity))
        rows.append(Row.mean("mean accuracy", right_KVN[k].mean(0), group=name, seed=seed))
    mean_N = right_KVN.mean((0, 1))
    rows.append(Row.mean("mean accuracy", mean_N, group="all corruptions", seed=seed))
    if clean_N.any():
        rows.append(Row.mean("relative to clean", mean_N, clean_N, group="all corruptions", seed=seed))
    return ProbeResult(
        probe="corruptions",
        about="Zero-shot accuracy under common corruptions at the model's input size.",
        data=data.name,
        n=len(label_N),
        seed=seed,
        settings={
            "corruptions": list(corruptions),
            "severities": list(severities),
            "table": table,
            "image_size": model.image_size,
            "departures": DEPARTURES,
        },
        rows=rows,
        quarantined=bad,
        seconds=round(time.monotonic() - began, 2),
        **provenance(model, model_name),
    )
