"""The clean pass: what the model says of untouched images, and which images there are at all.

Shapes: `N` images evaluated, `B` images of a batch, `C` classes, `E` eps, `K` images whose adversarial versions are kept.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tima.data.image_set import BadImage, sample_indices
from tima.errors import DataError
from tima.evaluation.fingerprint import image_hashes, images_sha256
from tima.evaluation.gallery import choose_gallery
from tima.evaluation.parts import read_tensors, write_tensors
from tima.evaluation.source import check_labels
from tima.results import Metrics, Quarantined, Result

if TYPE_CHECKING:
    from tima.evaluation.judge import Judge


def run_clean(judge: "Judge", result: Result) -> None:
    """This process's share of the clean pass, into a file of the store."""
    names = ("index_B", "label_B", "image_hash_B", "prediction_B", "margin_B", "confidence_B", "top5_B")
    rows: dict[str, list[Tensor]] = {name: [torch.empty(0)] for name in names}
    bad: list[BadImage] = []
    protocol = judge.protocol
    drawn_N = judge.shards.share(sample_indices(len(judge.source.label_N), protocol.samples, protocol.seed))
    judge.meter.begin("clean", len(drawn_N), 0, 0)
    difference, classes = 0.0, len(result.class_names)
    for index_B in drawn_N.split(judge.limits.batch_size):
        loaded = judge.source.load(index_B)
        bad.extend(loaded.bad)
        if len(loaded.label_B):
            logits_BC = judge.logits(loaded.image_BCHW).cpu()
            check_classes(logits_BC, classes, loaded.label_B, judge.source.name)
            if difference == 0 and len(rows["index_B"]) == 1:
                difference = float((judge.logits(loaded.image_BCHW).cpu() - logits_BC).abs().max())
            prediction_B, margin_B, confidence_B = answers(logits_BC, loaded.label_B)
            top_BK = logits_BC.topk(min(5, classes), dim=1).indices
            found = (
                loaded.index_B,
                loaded.label_B,
                image_hashes(loaded.image_BCHW),
                prediction_B,
                margin_B,
                confidence_B,
                top_BK.eq(loaded.label_B[:, None]).any(1),
            )
            for name, value in zip(names, found, strict=True):
                rows[name].append(value)
        judge.meter.advance(len(index_B))
    facts = {"bad": [[b.where, b.why] for b in bad], "difference": difference, "fallbacks": judge.limits.fallbacks}
    judge.limits.fallbacks = []
    parts = {name: torch.cat(values[1:]) if len(values) > 1 else values[0] for name, values in rows.items()}
    write_tensors(judge.store.next_name("clean", "block"), parts, facts)


def merge_clean(judge: "Judge", result: Result, gallery: int) -> dict[str, Tensor]:
    """The shares of all processes as the arrays of the sidecar. Unreadable images go into quarantine and are not counted."""
    read = [read_tensors(path) for path in judge.store.parts("clean")]
    bad = [item for _, facts in read for item in facts["bad"]]
    result.quarantine.extend(Quarantined(where=where, why=why) for where, why in bad)
    result.fallbacks.extend(item for _, facts in read for item in facts["fallbacks"])
    full = [tensors for tensors, _ in read if len(tensors["index_B"])]
    if not full:
        raise DataError(f"'{result.dataset}': none of the {len(bad)} images drawn could be read.")
    index_N = torch.cat([tensors["index_B"] for tensors in full])
    order_N = index_N.argsort()
    joined = {name: torch.cat([tensors[name] for tensors in full])[order_N] for name in full[0]}
    steps, n = len(judge.protocol.eps), len(index_N)
    correct_N = joined["prediction_B"] == joined["label_B"]
    arrays = {
        "index_N": joined["index_B"],
        "label_N": joined["label_B"],
        "image_hash_N": joined["image_hash_B"],
        "clean_prediction_N": joined["prediction_B"],
        "correct_N": correct_N,
        "robust_EN": torch.zeros(steps, n, dtype=torch.bool),
        "broken_by_EN": torch.full((steps, n), -1, dtype=torch.int8),
        "prediction_EN": joined["prediction_B"].repeat(steps + 1, 1),
        "margin_EN": joined["margin_B"].repeat(steps + 1, 1),
        "confidence_EN": joined["confidence_B"].repeat(steps + 1, 1),
    }
    if judge.protocol.adversarial_8bit:
        arrays["broken_8bit_EN"] = torch.zeros(steps, n, dtype=torch.bool)
    recall = [float(correct_N[joined["label_B"] == c].float().mean()) for c in joined["label_B"].unique()]
    result.metrics = Metrics(
        acc1=float(correct_N.double().mean()),
        acc5=float(joined["top5_B"].double().mean()) if len(result.class_names) >= 5 else None,
        mean_per_class_recall=min(1.0, sum(recall) / len(recall)),
    )
    result.n = n
    result.images_sha256 = images_sha256(arrays["index_N"], arrays["label_N"], arrays["image_hash_N"], judge.source.shape)
    result.repeat_difference = max(facts["difference"] for _, facts in read)
    if gallery > 0:
        arrays["gallery_index"] = choose_gallery(n, min(gallery, n), judge.protocol.seed)
    return arrays


def answers(logits_BC: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, margin (label's logit minus the best other one) and confidence (largest softmax share) of each image."""
    own_B1 = logits_BC.gather(1, label_B[:, None])
    margin_B = own_B1[:, 0] - logits_BC.scatter(1, label_B[:, None], -torch.inf).amax(1)
    return logits_BC.argmax(1), margin_B, logits_BC.softmax(1).amax(1)


def check_classes(logits_BC: Tensor, classes: int, label_B: Tensor, name: str) -> None:
    """Raise `DataError` when the model knows another number of classes than the set has names or labels for."""
    if logits_BC.shape[1] != classes:
        raise DataError(
            f"The model gives {logits_BC.shape[1]} logits an image, but '{name}' has {classes} class names. Hand in the names "
            "of the model's classes, in its order."
        )
    check_labels(label_B, classes, name)
