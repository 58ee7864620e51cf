"""Retrieval under attack: R@k from image to text and from text to image, clean and with the image perturbed.

Image to text: each image is moved until foreign captions of the pool come before its own. Text to image: each image is moved
away from its own captions, below the other images, which stay clean; a caption is lost if any point found for its image loses
it. Every eps counts what a smaller eps found, so recall never rises with eps.
Source: recall as in Karpathy & Fei-Fei 2015, arXiv 1412.2306; margins on similarities in place of logits.
Shapes: `N` images, `M` captions, `B` images at a time, `D` embedding width.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tima.attacks import find_attack
from tima.errors import DataError, RecipeError
from tima.models import DualEncoder
from tima.probes import recall
from tima.probes.captions import CaptionSet
from tima.probes.pictures import Progress, chunks, embed, embed_texts, generators, load_pixels, silent
from tima.probes.record import ProbeResult, Row, provenance

EncodeFn = Callable[[Tensor], Tensor]


def probe_retrieval(
    model: DualEncoder,
    data: CaptionSet,
    eps: Sequence[float],
    *,
    attack: str = "apgd",
    steps: int = 20,
    restarts: int = 1,
    ks: Sequence[int] = (1, 5),
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 50,
    model_name: str | None = None,
    progress: Progress = silent,
) -> ProbeResult:
    """R@k in both directions at every eps.

    Args:
        model: frozen dual encoder.
        data: pictures at the model's size, with captions. The pool is that of the sample.
        eps: sizes under l_inf, in [0, 1] pixel units.
        attack: `pgd` or `apgd`; run once for each k and direction.
        samples: pictures drawn by `seed`; all by default.

    Raises:
        DataError: fewer than two pictures.
        RecipeError: another attack, or a k below 1.
    """
    began = time.monotonic()
    if attack not in ("pgd", "apgd") or not ks or min(ks) < 1:
        raise RecipeError(f"The retrieval probe takes the attacks pgd and apgd and k from 1 on, not {attack} and {list(ks)}.")
    sizes, ks = sorted({float(e) for e in eps}), sorted(set(ks))
    chosen, whole_N = data.sampled(samples, seed)
    image_NCHW, index_N, bad = load_pixels(chosen.images)
    captions, whole_N = [chosen.captions[int(i)] for i in index_N], whole_N[index_N]
    if len(captions) < 2:
        raise DataError("Retrieval needs at least two pictures: with one there is nothing to confuse.")
    device = next(model.parameters()).device
    owner_M = torch.tensor([i for i, texts in enumerate(captions) for _ in texts], device=device)
    text_MD = embed_texts(model, [text for texts in captions for text in texts])
    found = attack_retrieval(
        model.encode_image,
        image_NCHW.to(device).float() / 255,
        embed(model, image_NCHW, batch_size),
        text_MD,
        owner_M,
        sizes,
        whole_N,
        ks=ks,
        attack=attack,
        params={"steps": steps, "restarts": restarts},
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    owners = {"image to text": torch.arange(len(captions)), "text to image": owner_M.cpu()}
    rows = [
        _row(k, found[direction][row, column].cpu(), owners[direction], group=direction, eps=size)
        for direction in found
        for row, size in enumerate([0.0, *sizes])
        for column, k in enumerate(ks)
    ]
    return ProbeResult(
        probe="retrieval",
        about="Retrieval among the sample's images and captions with the image perturbed; ties count against the model.",
        data=data.images.name,
        n=len(captions),
        seed=seed,
        settings={
            "attack": attack,
            "steps": steps,
            "restarts": restarts,
            "norm": "l_inf",
            "eps": sizes,
            "k": ks,
            "captions": len(owner_M),
        },
        rows=rows,
        details={"index": whole_N.tolist(), "captions_per_image": [len(texts) for texts in captions]},
        quarantined=bad,
        seconds=round(time.monotonic() - began, 2),
        **provenance(model, model_name),
    )


def _row(k: int, hit: Tensor, owner: Tensor, **where: Any) -> Row:
    return Row.share(f"R@{k}", hit.numpy(), recall.worth(hit, owner), **where)


def attack_retrieval(
    encode: EncodeFn,
    image_NCHW: Tensor,
    clean_ND: Tensor,
    text_MD: Tensor,
    owner_M: Tensor,
    sizes: Sequence[float],
    index_N: Tensor,
    *,
    ks: Sequence[int] = (1, 5),
    attack: str = "apgd",
    params: dict[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 50,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """Found or not, as bools `(1 + E) x K x N` ("image to text") and `x M` ("text to image"); row 0 is clean.

    An image's random numbers go by its `index_N`, its number in the whole set, not by its place among these.
    """
    run, params = find_attack(attack), params or {}
    clean_NM = clean_ND @ text_MD.T
    k_K = torch.tensor(list(ks), device=clean_NM.device)[:, None]
    every_N = torch.arange(len(image_NCHW), device=image_NCHW.device)
    rank_N = recall.image_to_text_rank(clean_NM, recall.own_mask(owner_M, every_N))
    to_text, to_image = [rank_N < k_K], [recall.text_to_image_rank(clean_NM, owner_M) < k_K]
    bars = [recall.kth_other(clean_NM, owner_M, k) for k in ks]
    # a pool with no k-th rival cannot lose at k: there is nothing to attack
    jobs = [("text", j) for j, k in enumerate(ks) if int((owner_M[None] != every_N[:, None]).sum(1).min()) >= k]
    jobs += [("image", j) for j, k in enumerate(ks) if len(image_NCHW) > k]
    last = {job: image_NCHW.clone() for job in jobs}
    total, done = len(sizes) * len(jobs) * len(image_NCHW), 0

    def similarity(x_BCHW: Tensor) -> Tensor:
        return encode(x_BCHW) @ text_MD.T

    for size in sizes:
        text_KN, image_KM = to_text[-1].clone(), to_image[-1].clone()
        for job in jobs:
            toward, j = job

            def loss(similarity_BM: Tensor, image_B: Tensor, toward: str = toward, j: int = j) -> Tensor:
                own_BM = recall.own_mask(owner_M, image_B)
                if toward == "text":
                    return recall.margin_image_to_text(similarity_BM, own_BM, ks[j])
                return recall.margin_text_to_image(similarity_BM, own_BM, bars[j])

            for part in chunks(len(image_NCHW), batch_size):
                start = last[job][part] if size != sizes[0] else None
                words = {"start_BCHW": start, "generator": generators(seed, index_N[part]), "loss": loss, **params}
                adv_BCHW = run(similarity, image_NCHW[part], every_N[part], size, **words)
                last[job][part] = adv_BCHW
                with torch.no_grad():  # what loses by any of the points found is lost
                    adv_BM = similarity(adv_BCHW)
                own_BM = recall.own_mask(owner_M, every_N[part])
                text_KN[:, part] &= recall.image_to_text_rank(adv_BM, own_BM) < k_K
                own_M = own_BM.any(0)
                mine_M = adv_BM.masked_fill(~own_BM, 0).sum(0)
                for column, bar_M in enumerate(bars):
                    if len(image_NCHW) > ks[column]:
                        image_KM[column] &= ~own_M | (mine_M > bar_M)
                done += adv_BCHW.shape[0]
                progress("attack", done, total)
        to_text.append(text_KN)
        to_image.append(image_KM)
    return {"image to text": torch.stack(to_text), "text to image": torch.stack(to_image)}
