"""`evaluate`: a model, a data set and a protocol make a result that can be believed.

Shapes: `N` images evaluated, `B` images of a batch, `C` channels or classes, `H, W` pixels, `E` eps, `G` gallery images.

The order of truth holds for every image, not only on average: wrong on the clean image is broken at every eps; broken at a
smaller eps is broken at every larger one and not attacked again; each eps also starts from what the smaller one found.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from tima._evaluate_store import Store
from tima.attacks import CountedModel, Stage, find_stages
from tima.data.image_set import BadImage, ImageSet
from tima.data.table import EMBEDDED
from tima.errors import DataError, ModelError
from tima.models import DualEncoder, ZeroShotClassifier
from tima.protocols import Protocol, eps_text
from tima.results import AttackRecord, Clean, Metrics, Quarantined, Result, Robust, result_path, versions
from tima.stats import wilson


def evaluate(
    model: DualEncoder,
    data: ImageSet,
    protocol: Protocol,
    *,
    out: Path | None = None,
    batch_size: int = 250,
    device: str | torch.device | None = None,
    gallery: int = 0,
    progress: bool = True,
    precision: str | None = None,
    model_name: str | None = None,
) -> Result:
    """Score `model` on `data` under `protocol`.

    Args:
        model: the dual encoder; its weights, mode and `requires_grad` are as before afterwards.
        data: the labelled images; resized to the model's grid when they are not on it.
        protocol: see `tima.protocols.load_protocol`.
        out: folder of the run. Writes `results/<data set>.<protocol>.json` and a sidecar (see `tima.results`). A second
            call returns what is complete and goes on after the last finished eps of what is not.
        batch_size: images attacked at once; changes memory and speed, not results.
        device: moves the model there; by default it stays where it is.
        gallery: so many images are kept with their adversarial versions, those that are right when clean first. Chosen in
            the first call; a call that goes on keeps what was chosen.
        progress: show a bar.
        precision: `fp32` or `bf16` instead of the protocol's, which makes the protocol `custom` where it differs.
        model_name: what tables call the model; by default its own name.

    Returns:
        The result, complete.

    Raises:
        DataError: no readable image.
        ModelError: NaN logits or gradients.
        RecipeError: an attack or parameter that does not exist.
        ResultError: the folder holds a result of another protocol or checkpoint.
    """
    protocol = protocol if precision is None else protocol.override(precision=precision)
    stages = find_stages(protocol.attack, protocol.attack_params)
    if device is not None:
        model.to(device)
    images = data if data.image_size == model.image_size else data.at_size(model.image_size)
    fresh = _empty_result(model, data, protocol, out, model_name)
    store = Store(None if out is None else result_path(out, data.name, protocol))
    earlier = store.load(fresh)
    if earlier is not None and earlier[0].complete:
        return earlier[0]
    finished = False
    try:
        with _as_judged(model), _bar(progress) as bar:
            classifier = ZeroShotClassifier(model, fresh.class_names, fresh.templates)
            judge = _Judge(classifier, images, protocol, stages, batch_size, bar)
            if earlier is None:
                result, arrays = judge.clean(fresh, gallery)
                store.save(result, arrays)
            else:
                result, arrays = earlier
                judge.check_same_images(arrays)
            for step in range(len(result.robust), len(protocol.eps)):
                result.robust.append(judge.robust(step, arrays, store))
                result.wall_time_s = round(result.wall_time_s + result.robust[-1].wall_time_s, 3)
                result.complete = step + 1 == len(protocol.eps)
                store.save(result, arrays)
                store.forget(step - 1)
        finished = True
    finally:
        store.close(finished=finished)
    return result


@dataclass
class _Judge:
    """One model on one data set: loads, attacks and judges in batches."""

    classifier: ZeroShotClassifier
    images: ImageSet
    protocol: Protocol
    stages: list[Stage]
    batch_size: int
    bar: Progress

    @property
    def device(self) -> torch.device:
        return self.classifier.text_CD.device

    def clean(self, result: Result, gallery: int) -> tuple[Result, dict[str, Tensor]]:
        """The clean pass. Unreadable images go into quarantine here and are never counted."""
        started = time.perf_counter()
        drawn, label, prediction, in_top5 = [], [], [], []
        classes = len(result.class_names)
        for index in self._batches(sample_indices(len(self.images), self.protocol.samples, self.protocol.seed), "clean"):
            batch = self.images.collate(self.images.__getitems__(index.tolist()))
            result.quarantine.extend(_quarantined(batch.bad))
            if len(batch.label_B) == 0:
                continue
            logits_BC = self._logits(_pixels(batch.image_BCHW, self.device)).cpu()
            drawn.append(batch.index_B)
            label.append(batch.label_B)
            prediction.append(logits_BC.argmax(1))
            in_top5.append((logits_BC.topk(min(5, classes), dim=1).indices == batch.label_B[:, None]).any(1))
        if not drawn:
            raise DataError(f"'{result.dataset}': none of the {len(result.quarantine)} images drawn could be read.")
        label_N, prediction_N = torch.cat(label), torch.cat(prediction)
        correct_N = prediction_N == label_N
        n, correct = len(label_N), int(correct_N.sum())
        recall = [float(correct_N[label_N == c].float().mean()) for c in label_N.unique()]
        acc5 = float(torch.cat(in_top5).double().mean()) if classes >= 5 else None
        result.metrics = Metrics(acc1=correct / n, acc5=acc5, mean_per_class_recall=min(1.0, sum(recall) / len(recall)))
        result.clean, result.n = Clean(n=n, correct=correct, accuracy=correct / n, ci95=wilson(correct, n)), n
        arrays = {
            "index_N": torch.cat(drawn),
            "label_N": label_N,
            "clean_prediction_N": prediction_N,
            "correct_N": correct_N,
            "robust_EN": torch.zeros(len(self.protocol.eps), n, dtype=torch.bool),
        }
        if gallery > 0:
            self._open_gallery(arrays, min(gallery, n))
        result.wall_time_s = round(time.perf_counter() - started, 3)
        return result, arrays

    def robust(self, step: int, arrays: dict[str, Tensor], store: Store) -> Robust:
        """Eps number `step`: attack what the smaller ones left standing, in place in `arrays`."""
        started, eps = time.perf_counter(), self.protocol.eps[step]
        standing_N = arrays["correct_N"] if step == 0 else arrays["robust_EN"][step - 1]
        robust_N = torch.zeros_like(standing_N)
        broken = [0] * len(self.stages)
        counted = CountedModel(self.classifier)
        if "gallery_adv" in arrays and step > 0:
            arrays["gallery_adv"][step] = arrays["gallery_adv"][step - 1]
        for name in ("gallery_prediction", "gallery_confidence") if "gallery_adv" in arrays else ():
            arrays[name][step + 1] = arrays[name][step]
        shape = (3, self.images.image_size, self.images.image_size)
        with store.perturbations(step, int(standing_N.sum()), shape) as found:
            for position in self._batches(standing_N.nonzero()[:, 0], eps_text(eps)):
                image_BCHW, index_B, label_B = self._load(arrays["index_N"][position])
                offset_BCHW = found.read(len(position))
                start_BCHW = None if offset_BCHW is None else image_BCHW + offset_BCHW.to(self.device)
                adv_BCHW, logits_BC = self._attack(counted, image_BCHW, label_B, index_B, eps, start_BCHW, broken)
                robust_B = logits_BC.argmax(1) == label_B
                robust_N[position] = robust_B.cpu()
                found.write((adv_BCHW - image_BCHW)[robust_B])
                _fill_gallery(arrays, step, position, adv_BCHW, logits_BC)
        arrays["robust_EN"][step] = robust_N
        n, correct = len(robust_N), int(robust_N.sum())
        return Robust(
            eps=eps,
            eps_text=eps_text(eps),
            n=n,
            correct=correct,
            robust_accuracy=correct / n,
            ci95=wilson(correct, n),
            already_broken=n - int(standing_N.sum()),
            attacks=[AttackRecord(name=s.name, params=s.params, broken=b) for s, b in zip(self.stages, broken, strict=True)],
            forwards=counted.forwards,
            backwards=counted.backwards,
            wall_time_s=round(time.perf_counter() - started, 3),
        )

    def _attack(
        self,
        counted: CountedModel,
        image_BCHW: Tensor,
        label_B: Tensor,
        index_B: Tensor,
        eps: float,
        start_BCHW: Tensor | None,
        broken: list[int],
    ) -> tuple[Tensor, Tensor]:
        """Every stage on what the stages before left standing: adversarial images and their logits in fp32."""
        adv_BCHW, logits_BC = image_BCHW.clone(), torch.empty(0)
        standing_B = torch.arange(len(label_B), device=self.device)
        for number, stage in enumerate(self.stages):
            keys = [f"{self.protocol.seed}:{stage.name}:{number}:{eps!r}:{i}" for i in index_B[standing_B.cpu()].tolist()]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.protocol.precision == "bf16"):
                found_BCHW = stage.attack(
                    counted,
                    image_BCHW[standing_B],
                    label_B[standing_B],
                    eps,
                    norm=self.protocol.norm,
                    start_BCHW=None if start_BCHW is None else start_BCHW[standing_B],
                    keep_best=True,
                    stop_when_broken=True,
                    generator=[_generator(key) for key in keys],
                    **stage.params,
                )
            judged_BC = self._logits(found_BCHW, counted)
            adv_BCHW[standing_B] = found_BCHW
            if number == 0:
                logits_BC = judged_BC
            else:
                logits_BC[standing_B] = judged_BC
            robust_B = judged_BC.argmax(1) == label_B[standing_B]
            broken[number] += int((~robust_B).sum())
            standing_B = standing_B[robust_B]
            if len(standing_B) == 0:
                break
        return adv_BCHW, logits_BC

    def _logits(self, image_BCHW: Tensor, model: CountedModel | None = None) -> Tensor:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            logits_BC = (model or self.classifier)(image_BCHW).float()
        if not bool(logits_BC.isfinite().all()):
            raise ModelError(
                f"'{self.classifier.model.name}' returns NaN or infinite logits on '{self.images.name}'. A score from such a "
                "model means nothing; check the checkpoint for NaN weights."
            )
        return logits_BC

    def _load(self, index_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch = self.images.collate(self.images.__getitems__(index_B.tolist()))
        if batch.bad:
            raise DataError(f"{batch.bad[0].where} was readable before and is not any more: {batch.bad[0].why}.")
        return _pixels(batch.image_BCHW, self.device), batch.index_B, batch.label_B.to(self.device)

    def _batches(self, index: Tensor, title: str) -> Iterator[Tensor]:
        """Cut into batches, the last one as short as it is, with the bar moving along."""
        task = self.bar.add_task(f"{self.images.name} {title}", total=len(index))
        for part in index.split(self.batch_size):
            if len(part):
                yield part
                self.bar.advance(task, len(part))

    def check_same_images(self, arrays: dict[str, Tensor]) -> None:
        """Raise `DataError` when an evaluation that goes on meets other labels than it started with."""
        index_N = arrays["index_N"]
        if int(index_N.max()) >= len(self.images) or not torch.equal(self.images.label_B[index_N], arrays["label_N"]):
            raise DataError(f"'{self.images.name}' has changed since this evaluation began. Delete its result and start again.")

    def _open_gallery(self, arrays: dict[str, Tensor], count: int) -> None:
        """Choose the images, right ones first, and make room for E adversarial versions."""
        correct_N = arrays["correct_N"]
        order = torch.randperm(len(correct_N), generator=torch.Generator().manual_seed(self.protocol.seed))
        chosen = torch.cat([order[correct_N[order]], order[~correct_N[order]]])[:count]
        image_GCHW, _, _ = self._load(arrays["index_N"][chosen])
        confidence_G = self._logits(image_GCHW).softmax(1).amax(1).cpu()
        steps = len(self.protocol.eps)
        arrays["gallery_index"] = chosen
        arrays["gallery_label"] = arrays["label_N"][chosen]
        arrays["gallery_clean"] = (image_GCHW * 255).round().to(torch.uint8).cpu()
        arrays["gallery_adv"] = image_GCHW.half().cpu().repeat(steps, 1, 1, 1, 1)
        arrays["gallery_prediction"] = arrays["clean_prediction_N"][chosen].repeat(steps + 1, 1)
        arrays["gallery_confidence"] = confidence_G.repeat(steps + 1, 1)


def sample_indices(total: int, samples: int | None, seed: int) -> Tensor:
    """Indices of the images that a protocol draws: those of `ImageSet.sample`, as indices of the whole set."""
    if samples is None or samples >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:samples].sort().values


def weights_sha256(model: torch.nn.Module) -> str:
    """Hash of every parameter and buffer (normalisation included) by name, dtype, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _empty_result(model: DualEncoder, data: ImageSet, protocol: Protocol, out: Path | None, model_name: str | None) -> Result:
    return Result(
        dataset=data.name,
        model=model_name or model.name,
        pretrained=model.name,
        metrics=Metrics(acc1=0, acc5=None, mean_per_class_recall=0),
        clean=Clean(n=0, correct=0, accuracy=0, ci95=(0, 1)),
        attack=protocol.attack,
        norm=protocol.norm,
        n=0,
        seed=protocol.seed,
        class_names=list(data.class_names),
        templates=list(data.templates) if protocol.templates == "data set" else list(protocol.templates),
        protocol={**protocol.content(), "sha256": protocol.sha256},
        checkpoint_sha256=weights_sha256(model),
        versions=versions(),
        quarantine=_quarantined(data.quarantine),
        train_domain=_train_domain(data.name, out),
        wall_time_s=0,
    )


def _train_domain(dataset: str, out: Path | None) -> bool:
    """Was the run in `out` trained on this set? Without a recipe there: is it the embedded training set?"""
    recipe = None if out is None else Path(out) / "recipe.yaml"
    if recipe is not None and recipe.is_file():
        import yaml

        trained_on = str((yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}).get("data", ""))
        return Path(trained_on.split(":")[0]).name == dataset
    return dataset in EMBEDDED and EMBEDDED[dataset].domain == "train"


def _fill_gallery(arrays: dict[str, Tensor], step: int, position_B: Tensor, adv_BCHW: Tensor, logits_BC: Tensor) -> None:
    if "gallery_adv" not in arrays:
        return
    row_of = {position: row for row, position in enumerate(position_B.tolist())}
    for g, position in enumerate(arrays["gallery_index"].tolist()):
        if (row := row_of.get(position)) is not None:
            confidence, prediction = logits_BC[row].softmax(0).max(0)
            arrays["gallery_adv"][step, g] = adv_BCHW[row].half().cpu()
            arrays["gallery_prediction"][step + 1, g] = prediction.cpu()
            arrays["gallery_confidence"][step + 1, g] = confidence.cpu()


def _pixels(image_BCHW: Tensor, device: torch.device) -> Tensor:
    return image_BCHW.to(device).float() / 255


def _quarantined(bad: list[BadImage] | tuple[BadImage, ...]) -> list[Quarantined]:
    return [Quarantined(where=item.where, why=item.why) for item in bad]


def _generator(key: str) -> torch.Generator:
    """Random numbers that belong to one image at one eps: neither batch size nor an interruption can change them."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little"))


@contextmanager
def _as_judged(model: DualEncoder) -> Iterator[None]:
    """Evaluation mode, weights without gradients, true fp32 arithmetic; everything as before afterwards."""
    training, wanted = model.training, [p.requires_grad for p in model.parameters()]
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter, flag in zip(model.parameters(), wanted, strict=True):
            parameter.requires_grad_(flag)
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


@contextmanager
def _bar(enabled: bool) -> Iterator[Progress]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, disable=not enabled) as bar:
        yield bar
