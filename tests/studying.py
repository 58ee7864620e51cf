"""What the tests of the study share: a tiny model, a toy set and a study of two methods and two seeds on them."""

from pathlib import Path
from typing import Any

import yaml
from conftest import build_tiny_clip, make_image_set, write_image_folder

from tima.study import Store
from tima.study.records import KeptResult, KeptRun, pack


def build_world(tokenizer: Any, root: Path) -> Path:
    """`model`, `toy` (train, val and test) and `far` (test), all small."""
    build_tiny_clip(tokenizer).save_pretrained(root / "model")
    for split, seed in (("train", 0), ("val", 1), ("test", 2)):
        write_image_folder(make_image_set(n=32, classes=8, seed=seed), root / "toy" / split)
    for name, seed in (("far", 3), ("near", 4)):
        write_image_folder(make_image_set(n=18, classes=6, seed=seed), root / name / "test")
    return root


def study_values(world: Path, **changes: Any) -> dict[str, Any]:
    """The content of a study file."""
    values: dict[str, Any] = {
        "name": "toy",
        "about": "A study of a toy.",
        "base": {
            "model": str(world / "model"),
            "data": str(world / "toy"),
            "steps": 3,
            "batch_size": 8,
            "val_every": 3,
            "val_samples": 8,
            "val_attack_steps": 1,
            "save_every": 2,
            "held_out_classes": 0.25,
            "precision": "fp32",
        },
        "seeds": [0, 1],
        "search": {"grid": {"lr": [0.001, 0.003]}, "settings": {"steps": 2}},
        "evaluate": [
            {
                "protocol": "pgd",
                "data": [str(world / name) for name in ("far", "near", "toy")],
                "changes": {"eps": ["1/255", "4/255"], "samples": 12, "attack_params": {"steps": 2}, "health_probe": 0},
            }
        ],
        "reference": "tecoa",
        "rows": {"tecoa": {"method": "tecoa", "title": "TeCoA"}, "tima": {"method": "tima"}},
        "claims": [
            {
                "kind": "difference",
                "claim": "TIMA is more robust",
                "source": "test",
                "row": "tima",
                "than": "tecoa",
                "at": ["1/255", "4/255"],
            }
        ],
    }
    return {**values, **changes}


def same(store: Store) -> dict[str, Any]:
    """What must not depend on interruptions: everything but times, costs, and hashes of files that hold times."""
    value = store.model_dump(mode="json")
    for run in value["runs"]:
        del run["cost"], run["summary"]["seconds"]
        for result in run["results"]:
            for key in ("sha256", "wall_time_s", "finished"):
                del result[key]
    return value


def write_study(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def kept_run(row: str, seed: int, right: dict[str, list[int]]) -> KeptRun:
    """A run of a row with outcomes on some sets, under the protocol `p`."""
    results = [
        KeptResult(
            data=data, protocol="p", file=data, sha256="", sidecar_sha256="", checkpoint_sha256="", n=len(bits), classes=2,
            images_sha256=data, train_domain=False, right={"clean": pack(bits)}, correct={"clean": sum(bits)}, forwards=0,
            backwards=0, wall_time_s=0.0, finished=None,
        )
        for data, bits in right.items()
    ]  # fmt: skip
    return KeptRun(row=row, key=row, eps="4/255", data="toy", seed=seed, state="finished", recipe={}, results=results)
