"""What only a GPU runs, as far as a CPU can follow it: the order of calls, not their speed."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tima.models.fast_compile as fast_compile
from tima.models.fast_compile import CompiledTower
from tima.models.hugging_face import HuggingFaceEncoder
from tima.train_batch import TrainBatch
from tima.train_prefetch import prefetched
from tima.train_speed import optimizer_words


class Pixels:
    """A tensor that writes down what is done with it."""

    def __init__(self, name: str, did: list[Any], device: str = "cpu") -> None:
        self.name, self.did, self.device = name, did, device

    def pin_memory(self) -> "Pixels":
        self.did.append((self.name, "pinned"))
        return self

    def to(self, device: torch.device, non_blocking: bool) -> "Pixels":
        self.did.append((self.name, "sent", non_blocking, self.did[-1][1]))
        return Pixels(self.name, self.did, str(device))

    def record_stream(self, stream: Any) -> None:
        self.did.append((self.name, "held for", stream.name))


class Stream:
    def __init__(self, name: str, did: list[Any]) -> None:
        self.name, self.did = name, did

    def __enter__(self) -> None:
        self.did.append((self.name, "entered"))

    def __exit__(self, *_: Any) -> None:
        self.did.append((self.name, "left"))

    def wait_stream(self, other: "Stream") -> None:
        self.did.append((self.name, "waits for", other.name))


def test_the_next_batch_is_sent_from_pinned_memory_on_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[Any] = []
    side, main = Stream("side", did), Stream("main", did)
    fake = SimpleNamespace(Stream=lambda device: side, stream=lambda stream: stream, current_stream=lambda device: main)
    monkeypatch.setattr("tima.train_prefetch.torch.cuda", fake)
    empty = TrainBatch(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.long))
    batches = [
        (i, replace(empty, image_BCHW=Pixels(f"image {i}", did), label_B=Pixels(f"label {i}", did)))  # type: ignore[arg-type]
        for i in range(2)
    ]
    got = []
    for step, batch in prefetched(batches, torch.device("cuda")):
        got.append(step)
        assert batch.image_BCHW.device == "cuda"
        if step == 0:
            assert ("image 1", "sent", True, "pinned") in did, "one ahead"
            assert did.index(("main", "waits for", "side")) < did.index(("image 0", "held for", "main"))
    assert got == [0, 1]
    first = did.index(("image 0", "sent", True, "pinned"))
    assert did.index(("side", "entered")) < first < did.index(("side", "left"))
    assert ("label 1", "held for", "main") in did


def test_on_a_gpu_the_attacks_passes_are_recorded_and_replayed(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_clip.use_lean(torch.bfloat16)
    with monkeypatch.context() as patch:
        patch.setitem(tiny_clip._buffers, "mean_C11", SimpleNamespace(is_cuda=True))
        assert tiny_clip.use_compile([])
    assert (tiny_clip._compiled[False].mode, tiny_clip._compiled[True].mode) == ("reduce-overhead", None)


def test_what_a_replayed_graph_will_overwrite_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    words: dict[str, Any] = {}
    answer = torch.zeros(4, 2)

    def graph(function: Any, **given: Any) -> Any:
        words.update(given)
        return lambda weights, x: answer.add_(1)

    monkeypatch.setattr(fast_compile.torch, "compile", graph)
    tower = CompiledTower([], "reduce-overhead", whole_only=True)
    weights: Any = None
    first, second = (tower(weights, torch.zeros(4, 3, 2, 2)) for _ in range(2))
    assert words == {"dynamic": False, "mode": "reduce-overhead"}
    assert float(first.max()) == 1.0 and float(second.min()) == 2.0


def test_the_fused_optimiser_is_for_whole_fp32_weights_of_one_device() -> None:
    whole, half = (torch.nn.Parameter(torch.zeros(2, dtype=t)) for t in (torch.float32, torch.bfloat16))
    elsewhere = torch.nn.Parameter(torch.zeros(2, device="meta"))
    assert optimizer_words([whole]) == {"fused": True}
    assert optimizer_words([whole, half]) == optimizer_words([whole, elsewhere]) == optimizer_words([elsewhere]) == {}
