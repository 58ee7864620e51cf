"""`precision: auto`, and bf16 on devices that have no arithmetic for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluating import agreeing_set, protocol_for
from test_train import recipe, world

from tima import _precision
from tima._precision import has_bf16, settle
from tima.config import TrainRecipe, train_recipe
from tima.distributed import Team
from tima.errors import RecipeError, TimaError
from tima.evaluate import evaluate, evaluate_classifier
from tima.evaluation.subject import NO_BF16
from tima.models.fast import AttackModel
from tima.models.hugging_face import HuggingFaceEncoder
from tima.plan.estimate import PlanRequest, _settled, check
from tima.train import train
from tima.train_files import settled
from tima.train_speed import quicken

__all__ = ["world"]
X86 = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu sse2 avx512f {more}\nbugs\t\t: bf16\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {more}\n"


def on_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None) -> None:
    """Pretend to run on the processor that `text` describes."""
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(_precision, "CPUINFO", file)
    monkeypatch.setattr(_precision, "_cpu_flags", _precision._cpu_flags.__wrapped__)


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        (X86.format(more="avx512_bf16"), True),
        (X86.format(more="amx_tile amx_bf16"), True),
        (X86.format(more="avx512_vnni"), False),  # computes bf16, but by way of fp32; "bf16" among its bugs is not a flag
        (ARM.format(more="bf16 i8mm"), True),
        (ARM.format(more="i8mm"), False),
        ("nothing that is known", False),
    ],
)
def test_a_processor_has_bf16_if_its_instructions_say_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, fast: bool
) -> None:
    on_cpu(monkeypatch, tmp_path, text)
    assert has_bf16("cpu") is fast and settle("auto", "cpu") == ("bf16" if fast else "fp32")
    assert settle("bf16", "cpu") == "bf16" and settle("fp32", "cpu") == "fp32"  # what was said outright stays


@pytest.mark.parametrize(("asked", "fast"), [({"avx512_bf16": True}, True), ({"avx512_bf16": False, "avx2": True}, False)])
def test_elsewhere_than_on_linux_torch_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: dict[str, Any], fast: bool
) -> None:
    on_cpu(monkeypatch, tmp_path, None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: asked | {"cpu_name": "bf16", "l1": 3}, raising=False)
    assert has_bf16("cpu") is fast
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # older torch cannot tell
    assert not has_bf16("cpu")


@pytest.mark.parametrize(("capability", "fast"), [((8, 0), True), ((9, 0), True), ((7, 5), False)])
def test_gpus_have_it_since_ampere(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], fast: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bf16("cuda:0") is fast
    assert not has_bf16("mps")


@pytest.mark.parametrize(("first", "then"), [(False, True), (True, False)])
def test_a_run_stores_its_precision_and_keeps_it_elsewhere(
    world: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool, then: bool
) -> None:
    """Begun on one machine and gone on with on another, by the same words: the same arithmetic to the end."""
    named, asked = "bf16" if first else "fp32", recipe(world, method="tecoa", steps=2)
    assert asked.precision == "auto"
    monkeypatch.setattr(_precision, "has_bf16", lambda device: first)
    train(asked, tmp_path / "run", progress=False)
    stored = train_recipe(tmp_path / "run" / "recipe.yaml")
    assert stored.precision == named and stored == asked.model_copy(update={"precision": named})
    monkeypatch.setattr(_precision, "has_bf16", lambda device: then)
    train(asked, tmp_path / "run", progress=False)  # the same run, not another's folder
    assert train_recipe(tmp_path / "run" / "recipe.yaml").precision == named
    other = "fp32" if first else "bf16"
    with pytest.raises(TimaError, match="other settings"):
        train(asked.model_copy(update={"precision": other}), tmp_path / "run", progress=False)


@pytest.mark.parametrize(("others", "agreed"), [(["bf16", "bf16"], "bf16"), (["bf16", "fp32"], "fp32")])
def test_processes_take_what_all_of_their_devices_compute_in(tmp_path: Path, others: list[str], agreed: str) -> None:
    """And what the main process read of a run begun, not each its own look at a folder that is being written."""

    read, said = ["auto"], []

    class Told(Team):
        def everyone(self, value: Any) -> list[Any]:
            said.append(value)
            return others

        def agree(self, value: Any) -> Any:
            return read[0]

    for begun, mine in (("auto", settle("auto", "cpu")), ("bf16", "bf16"), ("fp32", "fp32")):
        read[0] = begun
        found = settled(TrainRecipe(), tmp_path, torch.device("cpu"), Told(1, 2))
        assert found.precision == agreed and said.pop() == mine
    assert settled(TrainRecipe(precision="bf16"), tmp_path, torch.device("cpu"), Told(1, 2)).precision == "bf16" and not said


def test_bf16_attacks_run_in_fp32_where_bf16_is_imitated(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: list[torch.dtype] = []
    real = AttackModel.__call__

    def call(self: AttackModel, image: torch.Tensor) -> torch.Tensor:
        dtypes.append(self.dtype)
        return real(self, image)

    monkeypatch.setattr(AttackModel, "__call__", call)
    data = agreeing_set(tiny_clip)
    for fast, dtype, said in ((True, torch.bfloat16, []), (False, torch.float32, [NO_BF16])):
        monkeypatch.setattr("tima.evaluation.subject.has_bf16", lambda device, fast=fast: fast)
        dtypes.clear()
        result = evaluate(tiny_clip, data, protocol_for(eps="1/255"), precision="bf16", progress=False)
        assert set(dtypes) == {dtype} and result.fallbacks == said
        assert result.protocol["precision"] == "bf16"  # what was allowed; the fallback says what was done


def test_any_classifier_is_attacked_in_fp32_where_bf16_is_imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4))
    pixels = torch.rand(8, 3, 16, 16)
    images = pixels, layer(pixels).argmax(1)
    seen: list[bool] = []
    layer.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    for fast in (True, False):
        monkeypatch.setattr("tima.evaluation.subject.has_bf16", lambda device, fast=fast: fast)
        seen.clear()
        protocol = protocol_for(eps="1/255").override(precision="bf16")
        result = evaluate_classifier(layer, images, protocol, name="layer", progress=False)
        assert any(seen) is fast and (NO_BF16 in result.fallbacks) is not fast


def test_bf16_that_was_asked_for_where_it_is_imitated_is_taken_and_said_to_be_slow(
    tiny_clip: HuggingFaceEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a recipe of another machine is started again: its arithmetic, but not without a word."""
    for fast in (True, False):
        monkeypatch.setattr("tima.train_speed.has_bf16", lambda device, fast=fast: fast)
        notes = quicken(tiny_clip, None, TrainRecipe(precision="bf16"), torch.device("cpu"))
        assert tiny_clip.is_lean and [("imitates" in note) for note in notes] == [True] * (not fast)


def test_a_plan_takes_what_training_takes() -> None:
    peaks = {"bf16": {"best": 30.0}, "fp32": {"best": 130.0}}
    measured = PlanRequest("ViT-B-32", calibration={"peak_gflops": peaks})
    assert _settled(measured) == "fp32"
    assert _settled(replace(measured, calibration={"peak_gflops": peaks | {"bf16": {"best": 800.0}}})) == "bf16"
    jobs = [{"precision": "fp32", "passes": 1}]
    for known in (peaks | {"bf16": {"best": 800.0}}, {"bf16": peaks["bf16"]}):  # fp32: the only one whose steps were timed
        assert _settled(replace(measured, calibration={"peak_gflops": known, "jobs": jobs})) == "fp32"
    assert _settled(replace(measured, calibration={"kind": "else"})) == "bf16"  # `calibrated` says what is wrong with it
    assert _settled(PlanRequest("ViT-B-32", gpus="8xH100")) == "bf16"
    assert _settled(replace(measured, precision="bf16")) == "bf16"
    with pytest.raises(RecipeError, match="auto, fp32 or bf16"):
        check(replace(measured, precision="fp8"))
