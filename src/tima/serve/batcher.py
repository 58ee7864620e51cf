"""Pictures of concurrent requests in one forward pass. While one batch is computed, the next one gathers by itself.

What is batched is the image tower alone, so that requests with different class lists share a batch.
Shapes: `B` pictures, `C` channels, `H, W` pixels, `D` embedding width.
"""

import asyncio
from collections import deque
from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from tima.serve.jobs import Token, over_time
from tima.serve.limits import Limits
from tima.serve.metrics import Metrics
from tima.serve.models import ServedModel


@dataclass(frozen=True)
class Waiting:
    """A picture (uint8 `CxHxW`) and who waits for its embedding."""

    image_CHW: Tensor
    answer: "asyncio.Future[Tensor]"
    token: Token


class Batcher:
    """One model's queue. It is bounded by the room that requests are in: each holds one picture a model."""

    def __init__(self, model: ServedModel, pool: Executor, limits: Limits, metrics: Metrics) -> None:
        self.model = model
        self._pool, self._limits, self._metrics = pool, limits, metrics
        self._queue: deque[Waiting] = deque()
        self._filled = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._work(), name=f"batches of {self.model.id}")

    async def stop(self) -> None:
        """End, and tell whoever still waits."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        for waiting in self._queue:
            waiting.answer.cancel()
        self._queue.clear()

    async def embed(self, image_CHW: Tensor, token: Token) -> Tensor:
        """The picture's unit-norm embedding `D`.

        Raises:
            Problem: 504, its turn did not come in time.
        """
        waiting = Waiting(image_CHW, asyncio.get_running_loop().create_future(), token)
        self._queue.append(waiting)
        self._filled.set()
        try:
            return await asyncio.wait_for(waiting.answer, max(0.0, token.left))
        except TimeoutError:
            self._metrics.abandoned.add(kind="classify")
            raise over_time(token, "classify") from None

    async def _work(self) -> None:
        while True:
            await self._filled.wait()
            if len(self._queue) < self._limits.batch:
                await asyncio.sleep(self._limits.batch_wait)
            batch = self._take()
            if not batch:
                continue
            try:
                embedding_BD = await asyncio.get_running_loop().run_in_executor(
                    self._pool, self._embed, [waiting.image_CHW for waiting in batch]
                )
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.answer.cancel()
                raise
            except Exception as error:  # of this batch, whatever it is; the next one may fare better
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
                continue
            self._metrics.batches.observe(len(batch))
            for waiting, embedding_D in zip(batch, embedding_BD, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(embedding_D)

    def _take(self) -> list[Waiting]:
        """The next batch, without those that gave up."""
        batch: list[Waiting] = []
        while self._queue and len(batch) < self._limits.batch:
            waiting = self._queue.popleft()
            if not waiting.answer.done() and waiting.token.valid:
                batch.append(waiting)
        if not self._queue:
            self._filled.clear()
        return batch

    def _embed(self, image_BCHW: list[Tensor]) -> Tensor:
        with torch.inference_mode():
            return self.model.encoder.encode_image(torch.stack(image_BCHW).float() / 255)
