"""The course of an evaluation: the clean pass, then every eps from small to large, each written when it is done.

Every process does its share of the images; the main one joins the shares and writes. Shapes: `N` images.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from tima.attacks import Stage, check_stages
from tima.evaluation.clean import merge_clean, run_clean
from tima.evaluation.fingerprint import check_same_images
from tima.evaluation.gallery import fill_gallery, kept_positions, open_gallery
from tima.evaluation.health import assess_step
from tima.evaluation.judge import Judge
from tima.evaluation.limits import Limits
from tima.evaluation.meter import meter
from tima.evaluation.record import clean_record, merge_step
from tima.evaluation.shards import Shards
from tima.evaluation.source import Source
from tima.evaluation.store import Store
from tima.evaluation.subject import LogitsFn, Subject
from tima.protocols import Protocol
from tima.protocols.protocol import BESIDE
from tima.results import Result, result_path


@dataclass
class Plan:
    """What is to be done.

    Attributes:
        fresh: the result before anything is measured.
        source: the images.
        protocol, stages: how they are attacked.
        subject: makes the classifier, and the model that attacks may be transferred from, once models are set up.
        out: folder of the run; None keeps nothing.
    """

    fresh: Result
    source: Source
    protocol: Protocol
    stages: list[Stage]
    subject: Callable[[], tuple[Subject, LogitsFn | None]]
    out: Path | None
    batch_size: int
    gallery: int
    progress: bool


def run(plan: Plan) -> Result:
    """Do it, from where an earlier call stopped."""
    limits = Limits(plan.batch_size)
    shards = Shards.join()
    store = Store(None if plan.out is None else result_path(plan.out, plan.fresh.dataset, plan.protocol), shards)
    finished = False
    try:
        earlier = store.load(plan.fresh)
        if earlier is not None:
            check_same_images(plan.source, earlier[1], store.path)
            if earlier[0].complete:
                shards.wait()
                finished = True
                return earlier[0]
            plan.protocol = _as_begun(plan.protocol, earlier[0])
        else:
            check_stages(plan.stages, plan.protocol.norm)  # before the clean pass, not after it
        with meter(plan.source.name, plan.progress and shards.main) as bar:
            subject, reference = plan.subject()
            classes = len(plan.fresh.class_names)
            judge = Judge(
                subject, plan.source, plan.protocol, plan.stages, classes, limits, shards, store, bar
            )  # fmt: skip
            result, arrays = _clean(judge, plan) if earlier is None else earlier
            judge.kept_K = _kept(judge, arrays)
            for step in range(len(result.robust), len(plan.protocol.eps)):
                result, arrays = _robust(judge, plan, step, result, arrays, reference)
        shards.wait()
        finished = True
    except Exception as error:
        shards.fail(error)
        raise
    finally:
        store.close(finished=finished)
    return result


def _as_begun(protocol: Protocol, earlier: Result) -> Protocol:
    """What the hash leaves open stays as in the first call: the files in progress hold the images that it asked for."""
    return protocol.model_copy(update={key: earlier.protocol[key] for key in BESIDE if key in earlier.protocol})


def _clean(judge: Judge, plan: Plan) -> tuple[Result, dict[str, Tensor]]:
    started, result = time.perf_counter(), plan.fresh
    arrays: dict[str, Tensor] = {}
    if judge.shards.main:
        judge.store.reset()
    judge.shards.wait()
    run_clean(judge, result)
    judge.shards.wait()
    if judge.shards.main:
        arrays = merge_clean(judge, result, plan.gallery)
        clean_record(judge, result, arrays)
        judge.kept_K = _kept(judge, arrays)
        open_gallery(judge, arrays)
        result.machine = {**(result.machine or {}), "processes": str(judge.shards.size)}
        result.wall_time_s = round(time.perf_counter() - started, 3)
        judge.store.save(result, arrays)
        judge.store.forget("clean")
    return _shared(judge, plan, result, arrays)


def _robust(
    judge: Judge, plan: Plan, step: int, result: Result, arrays: dict[str, Tensor], reference: LogitsFn | None
) -> tuple[Result, dict[str, Tensor]]:
    judge.robust(step, arrays)
    judge.shards.wait()
    if judge.shards.main:
        started = time.perf_counter()
        row, gradients = merge_step(judge, step, arrays, result)
        fill_gallery(judge, arrays, step)
        row.health = assess_step(judge, result, row, step, arrays, gradients, reference)
        result.robust.append(row)
        notes = [note for note in judge.subject.notes if note not in result.fallbacks]
        result.fallbacks.extend([*notes, *judge.limits.fallbacks])
        judge.limits.fallbacks = []
        result.wall_time_s = round(result.wall_time_s + row.wall_time_s + time.perf_counter() - started, 3)
        result.complete = step + 1 == len(plan.protocol.eps)
        if result.complete:
            result.finished = datetime.now(UTC).isoformat(timespec="seconds")
        judge.store.save(result, arrays)
        judge.store.forget(step - 1)
    return _shared(judge, plan, result, arrays)


def _shared(judge: Judge, plan: Plan, result: Result, arrays: dict[str, Tensor]) -> tuple[Result, dict[str, Tensor]]:
    """What the main process wrote, in every process."""
    judge.shards.wait()
    if judge.shards.main:
        return result, arrays
    written = judge.store.load(plan.fresh)
    assert written is not None
    return written


def _kept(judge: Judge, arrays: dict[str, Tensor]) -> Tensor:
    return kept_positions(arrays, judge.protocol.health_probe, judge.protocol.seed)
