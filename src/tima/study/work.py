"""One job of a study in this process: an ordinary training or an ordinary evaluation, and a file that says so if it fails.

python -c "from tima.study.work import main; main()" JOB.json   # what `tima study --workers` starts, with its cores set
"""

import json
import os
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tima._files import write_json
from tima.errors import DataError
from tima.study.jobs import Job
from tima.study.state import MISSING, Failure, State, evaluation_name, read_object, set_name

if TYPE_CHECKING:
    from tima.data import ImageSet
    from tima.models import DualEncoder
    from tima.study.passes import PassMeter

BETWEEN = 2.0  # seconds between two writings of what a training has cost so far


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
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of saved and loaded weights; the board shows the progress
    state = State(Path(job["folder"]))
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    if "protocol" in job:
        _evaluate(job, state)
    else:
        _train(job, state)


def _train(job: dict[str, Any], state: State) -> None:
    from tima.config import TrainRecipe
    from tima.study.passes import PassMeter, measured
    from tima.train import train

    folder = state.run(job["key"])
    kept = [time.monotonic()]

    def now_and_then(meter: PassMeter) -> None:
        """A kill right after the last step must not lose what the run cost."""
        if time.monotonic() - kept[0] > BETWEEN:
            _keep_cost(folder / "cost.json", meter)
            kept[0] = time.monotonic()

    try:
        with measured(now_and_then) as meter:
            train(TrainRecipe(**job["recipe"]), folder, progress=False)
        _keep_cost(folder / "cost.json", meter)
    except Exception as error:  # whatever went wrong belongs to this row and to no other
        traceback.print_exc()
        state.fail(job["key"], "train", _failure(error))


def _keep_cost(path: Path, meter: "PassMeter") -> None:
    """Write `cost.json`. Of several parts of a run the longest counts; the memory is the largest of all."""
    from tima._provenance import machine
    from tima.study.passes import peak_memory

    before = read_object(path) if path.is_file() else {}
    memory, of = peak_memory()
    found = {**meter.record(), "memory_of": of, "machine": machine("cuda" if of == "gpu" else "cpu")}
    if before.get("steps_measured", 0) > found.get("steps_measured", 0):
        found = before
    write_json(path, {**found, "peak_memory_bytes": max(memory, before.get("peak_memory_bytes", 0))})


def _evaluate(job: dict[str, Any], state: State) -> None:
    import torch

    from tima.data import find_data
    from tima.evaluate import evaluate
    from tima.models import load_model
    from tima.protocols import Protocol

    folder, protocol = state.run(job["key"]), Protocol(**job["protocol"])
    model: DualEncoder | None = None
    for name in job["data"]:
        what = evaluation_name(name, protocol)
        if state.evaluated(job["key"], name, protocol) or state.failure(job["key"], what) is not None:
            continue
        try:
            model = load_model(folder).to("cuda" if torch.cuda.is_available() else "cpu") if model is None else model
            try:
                # results are looked for by the name that the study uses, whatever the folder calls itself
                images = replace(find_data(name, None, model.image_size), name=set_name(name))
            except DataError as error:
                state.fail(job["key"], what, Failure(MISSING, str(error)))
                continue
            # before the result, which marks the set as done
            _look_at_texts(model, job["recipe"]["model"], images, folder / "texts" / f"{images.name}.json")
            evaluate(
                model,
                images,
                protocol,
                out=folder,
                batch_size=job["batch_size"],
                progress=False,
                model_name=job["model_name"],
                train_data=job["recipe"]["data"],
            )
        except Exception as error:  # as above
            traceback.print_exc()
            state.fail(job["key"], what, _failure(error))


def _look_at_texts(model: "DualEncoder", original: str, images: "ImageSet", path: Path) -> None:
    """How the class texts of a set lie now and lay before, with its own prompts. One file each: jobs may run side by side."""
    from tima.models import load_model
    from tima.study.texts import text_spread

    if not path.is_file():
        before = load_model(original).to(model.mean_C11.device)
        write_json(path, text_spread(model, before, images.class_names, images.templates))


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


def main() -> None:
    """A worker: do the job of the file that the command line ends with."""
    _end_with_parent()
    perform(json.loads(Path(sys.argv[-1]).read_text(encoding="utf-8")))
