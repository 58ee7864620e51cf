"""One job of a study in this process: an ordinary training or an ordinary evaluation, and a file that says so if it fails.

python -m tima.study.work JOB.json      # what `tima study --workers` starts, with OMP_NUM_THREADS and cores set
"""

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tima._files import write_json
from tima.errors import DataError
from tima.study.jobs import Job
from tima.study.state import MISSING, Failure, State, evaluation_name, read_object

if TYPE_CHECKING:
    from tima.data import ImageSet
    from tima.models import DualEncoder
    from tima.protocols import Protocol


def describe(job: Job, state: State, threads: int | None) -> dict[str, Any]:
    """The job as JSON, for another process."""
    found: dict[str, Any] = {
        "folder": str(state.folder),
        "key": job.training.key,
        "threads": threads,
        "recipe": job.training.recipe.model_dump(mode="json"),
    }
    if job.protocol is not None and job.evaluation is not None:
        found |= {
            "protocol": job.protocol.content(),
            "data": job.evaluation.data,
            "batch_size": job.evaluation.batch_size,
            "model_name": job.training.row,
        }
    return found


def perform(job: dict[str, Any]) -> None:
    """Do it. Errors of the work end in a file of the run's folder, never in an exception: other jobs go on."""
    state = State(Path(job["folder"]))
    if job["threads"]:
        import torch

        torch.set_num_threads(job["threads"])
    if "protocol" in job:
        _evaluate(job, state)
    else:
        _train(job, state)


def _train(job: dict[str, Any], state: State) -> None:
    from tima._provenance import machine
    from tima.config import TrainRecipe
    from tima.study.passes import measured, peak_memory
    from tima.train import train

    folder = state.run(job["key"])
    try:
        with measured() as meter:
            train(TrainRecipe(**job["recipe"]), folder, progress=False)
        memory, of = peak_memory()
        device = "cuda" if of == "gpu" else "cpu"
        write_json(
            folder / "cost.json",
            {**meter.record(), "peak_memory_bytes": memory, "memory_of": of, "machine": machine(device)},
        )
    except Exception as error:  # whatever went wrong belongs to this row and to no other
        traceback.print_exc()
        state.fail(job["key"], "train", _failure(error))


def _evaluate(job: dict[str, Any], state: State) -> None:
    from tima.cli.jobs import find_device
    from tima.data import find_data
    from tima.evaluate import evaluate
    from tima.models import load_model
    from tima.protocols import Protocol

    folder, protocol = state.run(job["key"]), Protocol(**job["protocol"])
    model: DualEncoder | None = None
    opened: list[ImageSet] = []
    for name in job["data"]:
        what = evaluation_name(name, protocol)
        if state.evaluated(job["key"], name, protocol) or state.failure(job["key"], what) is not None:
            continue
        try:
            model = load_model(folder) if model is None else model
            try:
                images = find_data(name, None, model.image_size)
            except DataError as error:
                state.fail(job["key"], what, Failure(MISSING, str(error)))
                continue
            opened.append(images)
            evaluate(
                model,
                images,
                protocol,
                out=folder,
                batch_size=job["batch_size"],
                device=find_device(None),
                progress=False,
                model_name=job["model_name"],
                train_data=job["recipe"]["data"],
            )
        except Exception as error:  # as above
            traceback.print_exc()
            state.fail(job["key"], what, _failure(error))
    if model is not None:
        _look_at_texts(model, job["recipe"]["model"], opened, protocol, folder / "texts.json")


def _look_at_texts(model: "DualEncoder", original: str, sets: "list[ImageSet]", protocol: "Protocol", path: Path) -> None:
    """How the class texts of each set lie now and lay before, kept in `texts.json`."""
    from tima.models import load_model
    from tima.study.texts import text_spread

    found = read_object(path) if path.is_file() else {}
    before = load_model(original)
    for images in sets:
        if images.name not in found:
            prompts = protocol.prompts(tuple(images.templates))
            found[images.name] = text_spread(model.cpu(), before, images.class_names, prompts)
    write_json(path, found)


def _failure(error: Exception) -> Failure:
    return Failure(type(error).__name__, str(error))


def _end_with_parent() -> None:
    """A worker whose study was killed must not go on writing where the next call of the study works."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(143)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    perform(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
