"""One model judged on one data set: the clean pass, then one pass for each eps over what still stands.

Shapes: `N` images evaluated, `B` images of a batch, `C` channels or classes, `H, W` pixels, `E` eps.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from tima._evaluate_gallery import carry_gallery, choose_gallery, fill_gallery, open_gallery
from tima._evaluate_store import Store
from tima.attacks import CountedModel, Stage
from tima.data.image_set import BadImage, ImageSet
from tima.errors import DataError, ModelError
from tima.models import ZeroShotClassifier
from tima.protocols import Protocol, eps_text
from tima.results import AttackRecord, Clean, Metrics, Quarantined, Result, Robust
from tima.stats import wilson


@dataclass
class Judge:
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
            result.quarantine.extend(quarantined(batch.bad))
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
            chosen = choose_gallery(n, min(gallery, n), self.protocol.seed)
            image_GCHW, _, _ = self._load(arrays["index_N"][chosen])
            open_gallery(arrays, chosen, image_GCHW, self._logits(image_GCHW), len(self.protocol.eps))
        result.wall_time_s = round(time.perf_counter() - started, 3)
        return result, arrays

    def robust(self, step: int, arrays: dict[str, Tensor], store: Store) -> Robust:
        """Eps number `step`: attack what the smaller ones left standing, in place in `arrays`."""
        started, eps = time.perf_counter(), self.protocol.eps[step]
        standing_N = arrays["correct_N"] if step == 0 else arrays["robust_EN"][step - 1]
        robust_N = torch.zeros_like(standing_N)
        broken = [0] * len(self.stages)
        counted = CountedModel(self.classifier)
        carry_gallery(arrays, step)
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
                fill_gallery(arrays, step, position, adv_BCHW, logits_BC)
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


def check_same_images(images: ImageSet, arrays: dict[str, Tensor], where: Path | None) -> None:
    """Raise `DataError` when a stored result was made on other images: a changed set, another split, another folder."""
    index_N = arrays["index_N"]
    if int(index_N.max()) >= len(images) or not torch.equal(images.label_B[index_N], arrays["label_N"]):
        raise DataError(
            f"{where} is the result of other images than '{images.name}' has now: the set has changed, or another split or "
            "folder of that name was evaluated there. Delete that result, or give another --out."
        )


def sample_indices(total: int, samples: int | None, seed: int) -> Tensor:
    """Indices of the images that a protocol draws: those of `ImageSet.sample`, as indices of the whole set."""
    if samples is None or samples >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:samples].sort().values


def _pixels(image_BCHW: Tensor, device: torch.device) -> Tensor:
    return image_BCHW.to(device).float() / 255


def quarantined(bad: Sequence[BadImage]) -> list[Quarantined]:
    return [Quarantined(where=item.where, why=item.why) for item in bad]


def _generator(key: str) -> torch.Generator:
    """Random numbers that belong to one image at one eps: neither batch size nor an interruption can change them."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little"))
