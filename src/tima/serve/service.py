"""Everything that a running server holds, and the work behind each address, free of HTTP.

Pools of threads, so that no kind of work holds up another: decoding, batches of pictures, class texts, attacks.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tima.eps import format_eps
from tima.errors import ModelError
from tima.serve import schemas
from tima.serve.attack import Outcome, Wanted, attack
from tima.serve.batcher import Batcher
from tima.serve.checks import check_attack, check_models, check_texts
from tima.serve.jobs import Room, Token, run_job, together
from tima.serve.limits import Limits
from tima.serve.metrics import Gauge, Metrics
from tima.serve.models import ServedModel, load_models
from tima.serve.pictures import Picture, check_picture, png_base64, to_grid
from tima.serve.projection import text_views
from tima.serve.runs import RunShelf, find_runs
from tima.serve.samples import Sample, load_samples
from tima.serve.settings import Settings
from tima.serve.texts import TextCache


@dataclass(frozen=True)
class Asked:
    """What every request for work names, checked."""

    classes: list[str]
    templates: list[str]
    models: list[ServedModel]


class Service:
    """Made before the event loop runs; `start` and `stop` belong to the loop."""

    def __init__(self, settings: Settings) -> None:
        self.limits: Limits = settings.limits
        runs, self.left_out = find_runs(settings.runs)
        self.models = load_models(settings.models, runs)
        self.runs = RunShelf(runs)
        self.samples: dict[str, Sample] = load_samples() if settings.samples else {}
        self.metrics = Metrics()
        self.texts = TextCache(self.limits.cached_texts, self.metrics)
        self.rooms = {
            "classify": Room("classify", self.limits.classify_room, 1, self.metrics),
            "texts": Room("texts", self.limits.attack_room, 1, self.metrics),
            "attack": Room("attack", self.limits.attack_room, 5, self.metrics),
        }
        self.metrics.gauges += [
            *(Gauge("tima_inside", "Requests working or waiting.", lambda r=room: r.inside, room=name)  # type: ignore[misc]
              for name, room in self.rooms.items()),
            Gauge("tima_text_cache_entries", "Class texts kept.", lambda: len(self.texts)),
        ]  # fmt: skip
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self.batchers: dict[str, Batcher] = {}
        self.ready = False

    def start(self) -> None:
        self._pools = {
            name: ThreadPoolExecutor(size, thread_name_prefix=f"tima-{name}")
            for name, size in (("decode", 2), ("batch", 1), ("texts", 1), ("attack", 1))
        }
        self.batchers = {m.id: Batcher(m, self._pools["batch"], self.limits, self.metrics) for m in self.models.values()}
        for batcher in self.batchers.values():
            batcher.start()
        self.runs.start()
        self.ready = True

    async def stop(self) -> None:
        """End what is left. Requests have had their time before this is called."""
        self.ready = False
        await asyncio.to_thread(self.runs.stop)
        await asyncio.gather(*(batcher.stop() for batcher in self.batchers.values()))
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    # the work --------------------------------------------------------------------------------------------------------

    async def classify(self, asked: schemas.ClassifyRequest) -> schemas.ClassifyResponse:
        started, token = time.perf_counter(), Token(self.limits.classify_seconds)
        who = self._asked(asked)
        picture = await self._picture(asked.image, token)

        async def one(model: ServedModel) -> schemas.Answer:
            text_CD, image_CHW = await together(self._texts(model, who, token), self._grid(picture, model, token))
            image_D = await self.batchers[model.id].embed(image_CHW, token)
            with torch.inference_mode():
                share_C = model.encoder.logits(image_D[None], text_CD)[0].softmax(-1)
            return answer(model, who.classes, share_C)

        results = await together(*map(one, who.models))
        facts = schemas.PictureFacts(format=picture.format, width=picture.width, height=picture.height)
        return schemas.ClassifyResponse(
            classes=who.classes,
            templates=who.templates,
            picture=facts,
            results=results,
            seconds=time.perf_counter() - started,
        )

    async def attack(self, asked: schemas.AttackRequest) -> schemas.AttackResponse:
        started, token = time.perf_counter(), Token(self.limits.attack_seconds)
        who = self._asked(asked)
        wanted = check_attack(asked, who.classes, self.limits)
        picture = await self._picture(asked.image, token)

        def work() -> list[schemas.Attacked]:
            found = []
            for model in who.models:
                text_CD = self.texts.embed(model, who.classes, who.templates, token)
                outcome = attack(model, text_CD, to_grid(picture, model.encoder.image_size), wanted, token)
                found.append(attacked(model, who.classes, outcome, wanted))
            return found

        results = await run_job(self._pools["attack"], token, self.metrics, "attack", work)
        return schemas.AttackResponse(
            classes=who.classes,
            templates=who.templates,
            eps=wanted.eps,
            eps_text=format_eps(wanted.eps),
            steps=wanted.steps,
            targeted=wanted.target is not None,
            results=results,
            seconds=time.perf_counter() - started,
        )

    async def look_at_texts(self, asked: schemas.TextsRequest) -> schemas.TextsResponse:
        started, token = time.perf_counter(), Token(self.limits.classify_seconds)
        who = self._asked(asked)
        texts = [await self._texts(model, who, token) for model in who.models]
        views, same_plane, explained = text_views(texts)
        results = []
        for model, view in zip(who.models, views, strict=True):
            near: list[tuple[str | None, float | None]] = [
                (who.classes[j], cosine) for j, cosine in zip(view.nearest_C, view.nearest_cosine_C, strict=True)
            ] or [(None, None)]
            points = [
                schemas.TextPoint(name=name, x=float(xy[0]), y=float(xy[1]), nearest=nearest, cosine=cosine)
                for name, xy, (nearest, cosine) in zip(who.classes, view.point_C2, near, strict=True)
            ]
            results.append(
                schemas.ModelTexts(
                    model=model.id, title=model.title, mean_cosine=view.mean_cosine, energy=view.energy, points=points
                )
            )
        return schemas.TextsResponse(
            classes=who.classes,
            templates=who.templates,
            same_plane=same_plane,
            explained=min(1.0, explained),
            results=results,
            seconds=time.perf_counter() - started,
        )

    # its parts -------------------------------------------------------------------------------------------------------

    def _asked(self, asked: Any) -> Asked:
        classes, templates = check_texts(asked.classes, asked.templates, self.limits)
        return Asked(classes, templates, check_models(asked.models, self.models, self.limits))

    async def _texts(self, model: ServedModel, who: Asked, token: Token) -> Tensor:
        kept = self.texts.kept(model, who.classes, who.templates)
        if kept is not None:
            return kept

        def work() -> Tensor:
            return self.texts.embed(model, who.classes, who.templates, token)

        return await run_job(self._pools["texts"], token, self.metrics, "texts", work)

    async def _picture(self, data: bytes, token: Token) -> Picture:
        def work() -> Picture:
            return check_picture(data, self.limits)

        return await run_job(self._pools["decode"], token, self.metrics, "decode", work)

    async def _grid(self, picture: Picture, model: ServedModel, token: Token) -> Tensor:
        def work() -> Tensor:
            return to_grid(picture, model.encoder.image_size)

        return await run_job(self._pools["decode"], token, self.metrics, "decode", work)


def answer(model: ServedModel, classes: list[str], share_C: Tensor) -> schemas.Answer:
    """Shares as an answer.

    Raises:
        ModelError: they are not finite.
    """
    if not bool(share_C.isfinite().all()):
        raise ModelError(f"'{model.title}' answers with NaN. Look at its weights.")
    shares = [round(share, 6) for share in share_C.clamp(0, 1).tolist()]
    return schemas.Answer(model=model.id, title=model.title, answer=classes[int(share_C.argmax())], probabilities=shares)


def attacked(model: ServedModel, classes: list[str], found: Outcome, wanted: Wanted) -> schemas.Attacked:
    """An attack's outcome as the API shows it."""
    after = answer(model, classes, found.adversarial_C)
    reached = after.answer == classes[found.label]
    rows = found.trace_TC[:, found.followed].clamp(0, 1)
    return schemas.Attacked(
        model=model.id,
        title=model.title,
        label=classes[found.label],
        clean=answer(model, classes, found.clean_C),
        adversarial=after,
        succeeded=reached if wanted.target is not None else not reached,
        largest_change=found.levels,
        trace=schemas.Trace(
            classes=[classes[c] for c in found.followed],
            probabilities=[[round(share, 5) for share in row] for row in rows.tolist()],
            kept_step=found.kept_step,
        ),
        images=schemas.Images(
            clean=png_base64(found.clean_CHW),
            perturbation=png_base64(found.delta_CHW),
            adversarial=png_base64(found.adversarial_CHW),
        ),
    )
