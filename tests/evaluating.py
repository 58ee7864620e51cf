"""What the tests of the evaluation share: small protocols, sets whose clean outcome is known, results without their times."""

from dataclasses import replace
from typing import Any

import torch
from conftest import make_image_set

from tima.data import ImageSet
from tima.models import ZeroShotClassifier
from tima.models.hugging_face import HuggingFaceEncoder
from tima.protocols import Protocol, load_protocol
from tima.results import Result

EPS = "1/1020,1/255,3/255"


def protocol_for(**changes: object) -> Protocol:
    fields: dict[str, object] = {"eps": EPS, "samples": None, "attack_params": {"steps": 3}, "health_probe": 0}
    return load_protocol("pgd").override(**{**fields, **changes})


def agreeing_set(model: HuggingFaceEncoder, n: int = 25, classes: int = 6, wrong: int = 3, **words: Any) -> ImageSet:
    """Labels are the model's own answers except for the first `wrong`: the clean outcome is known."""
    images = make_image_set(n, classes, **words)
    seen = images.at_size(model.image_size)
    pixels = torch.stack([seen[i][0] for i in range(n)]).float() / 255  # type: ignore[misc]
    with torch.no_grad():
        label = ZeroShotClassifier(model, images.class_names, images.templates)(pixels).argmax(1)
    label[:wrong] = (label[:wrong] + 1) % classes
    return replace(images, label_B=label)


def counts(result: Result) -> list[int]:
    return [result.clean.correct, *(row.correct for row in result.robust)]


def comparable(result: Result) -> dict[str, Any]:
    """Everything but the time it took."""
    value = result.to_json()
    del value["finished"]
    for timed in [value, *value["robust"], *(a for row in value["robust"] for a in row["attacks"])]:
        del timed["wall_time_s"]
    return value


def same_arrays(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
