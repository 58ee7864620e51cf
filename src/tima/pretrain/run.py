"""The pre-training loop: first the text tower from the teacher's texts, then the image tower from pairs and teacher.

    tima pretrain --recipe nano.yaml --out runs/nano          # resumes by itself where it was stopped

Losses (shapes: `B` pairs, `D` width, `K` bank entries; `v`, `t` student, `v0`, `t0` teacher, all unit-norm):

(1) text   `1 - cos(t, t0) + KL(softmax(s t0 @ t0.T) || softmax(s t @ t0.T))`, the second over the batch
(2) image  `w_contrastive * symmetric contrastive(v, t)` [Radford et al. 2021], pairs with one text count as positives
           `+ w_bank * KL(softmax(s v0 @ bank.T) || softmax(s v @ bank.T))` over nouns no picture need have shown
           `+ w_feature * (1 - cos(v, v0))`
"""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from rich.console import Console
from torch import Tensor, nn

from tima._files import atomic_folder, atomic_path, write_text
from tima.data import ImageSet, find_data
from tima.data.augment import augment
from tima.models import DualEncoder, ZeroShotClassifier, load_model, nano_folder
from tima.models.hugging_face import CLIP_MEAN, CLIP_STD, HuggingFaceEncoder
from tima.pretrain import cache
from tima.pretrain.masked import encode_patches
from tima.pretrain.recipe import PretrainRecipe, Shape, Stage
from tima.pretrain.sources import Pairs, gather_pairs, gather_texts
from tima.pretrain.tokenizer import train_tokenizer

console = Console()


def find_tokenizer(recipe: PretrainRecipe, out: Path, texts: list[str]) -> Any:
    """The run's tokenizer: what it started with, else the one the recipe names, else one learned from `texts`.

    Learning is not repeatable to the last merge: the library breaks ties between equally frequent pairs at random. So it
    happens once a run, and a recipe that names a tokenizer gives the same weights anywhere.
    """
    from transformers import AutoTokenizer

    own = out / "tokenizer"
    if (own / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(own)
    if recipe.tokenizer is None:
        return train_tokenizer(texts, recipe.shape.vocab_size, own)
    tokenizer = AutoTokenizer.from_pretrained(nano_folder() if recipe.tokenizer == "nano" else recipe.tokenizer)
    tokenizer.save_pretrained(own)
    return tokenizer


def build_student(shape: Shape, tokenizer: Any, embed_dim: int, seed: int) -> HuggingFaceEncoder:
    """A small `CLIPModel` with random weights, projecting into the teacher's space."""
    from transformers import CLIPConfig, CLIPModel

    def tower(width: int, layers: int) -> dict[str, Any]:
        return dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=width // 64)

    special = dict(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    text = tower(shape.text_width, shape.text_layers) | special
    text |= dict(vocab_size=len(tokenizer), max_position_embeddings=shape.context_length, hidden_act="gelu")
    vision = tower(shape.vision_width, shape.vision_layers) | dict(
        image_size=shape.image_size, patch_size=shape.patch_size, hidden_act="gelu"
    )
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=embed_dim)
    model = CLIPModel(config)
    model.set_attn_implementation("eager")
    return HuggingFaceEncoder(model, tokenizer, mean=CLIP_MEAN, std=CLIP_STD, name="student")


def pretrain(recipe: PretrainRecipe, out: str | Path) -> Path:
    """Run or resume; returns the folder of the finished model (Hugging Face format, float16 safetensors)."""
    out = Path(out)
    write_text(out / "recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False))
    pairs = gather_pairs(recipe)
    texts, bank = gather_texts(recipe, pairs)
    console.print(f"{len(pairs):,} pairs {pairs.corpora}, {len(texts):,} texts, bank of {len(bank):,}")
    text_done = stage_step(out, "text") >= recipe.text.steps
    tokenizer = find_tokenizer(recipe, out, [*texts, *pairs.class_names])
    teacher = load_model(recipe.teacher)
    teacher.backbone.set_attn_implementation("eager")
    teacher_scale = float(teacher.logit_scale.detach())
    t0_KD = torch.empty(0) if text_done else cache.teacher_texts(out / "cache", teacher, texts, "teacher-texts")
    bank_KD = cache.teacher_texts(
        out / "cache", teacher, [recipe.templates[0].replace("{c}", b) for b in bank], "teacher-bank"
    ).float()
    student = build_student(recipe.shape, tokenizer, teacher.embed_dim, recipe.seed)

    by_length = torch.tensor(sorted(range(len(texts)), key=lambda i: len(texts[i])))
    window = min(8 * recipe.text.batch_size, len(texts))

    def text_loss(step: int, g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        # texts of about one length share a batch: otherwise four fifths of the tokens would be padding
        start = int(torch.randint(len(texts) - window + 1, (1,), generator=g))
        rows = by_length[start + torch.randperm(window, generator=g)[: recipe.text.batch_size]]
        t_BD = student.encode_text([texts[i] for i in rows.tolist()])
        t0_BD = t0_KD[rows].float()
        cosine = (t_BD * t0_BD).sum(-1).mean()
        kl = _kl(teacher_scale * t0_BD @ t0_BD.T, teacher_scale * t_BD @ t0_BD.T)
        return 1 - cosine + kl, {"cosine": cosine, "kl": kl}

    run_stage("text", recipe.text, student.text_parameters(), student, text_loss, out, recipe)

    image_N = cache.pictures(out / "cache", pairs, recipe.shape.image_size)
    v0_ND = cache.teacher_images(out / "cache", teacher, pairs, recipe.teacher_image_size)
    del teacher
    table_WD, word_of_NT = encode_words(student, pairs, recipe.templates)
    whole_from = round((1 - recipe.whole_share) * recipe.image.steps)

    def image_loss(step: int, g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = torch.randint(len(pairs), (recipe.image.batch_size,), generator=g)
        picks = torch.randint(len(recipe.templates), (len(rows),), generator=g)
        t_BD = table_WD[word_of_NT[rows, picks]]
        keep = 1.0 if step >= whole_from else recipe.keep_patches
        v_BD = encode_patches(student, augment(image_N[rows].float() / 255, g), keep, g)
        v0_BD = v0_ND[rows].float()
        first_B = word_of_NT[rows, 0]
        same_BB = (first_B[:, None] == first_B[None, :]).float()
        target_BB = same_BB / same_BB.sum(-1, keepdim=True)
        logits_BB = student.logit_scale * v_BD @ t_BD.T
        contrastive = (F.cross_entropy(logits_BB, target_BB) + F.cross_entropy(logits_BB.T, target_BB)) / 2
        kl = _kl(teacher_scale * v0_BD @ bank_KD.T, teacher_scale * v_BD @ bank_KD.T)
        cosine = (v_BD * v0_BD).sum(-1).mean()
        loss = recipe.w_contrastive * contrastive + recipe.w_bank * kl + recipe.w_feature * (1 - cosine)
        return loss, {"contrastive": contrastive, "bank": kl, "cosine": cosine}

    trained = student.image_parameters() | {"logit_scale": student.backbone.logit_scale}
    run_stage("image", recipe.image, trained, student, image_loss, out, recipe)
    return save(student, out)


@torch.no_grad()
def encode_words(student: HuggingFaceEncoder, pairs: Pairs, templates: list[str]) -> tuple[Tensor, Tensor]:
    """Embeddings of every text a picture can be paired with, and which of them each (picture, template) means.

    The text tower is locked while the image tower learns (LiT, Zhai et al. 2022), so each text is encoded once.
    """
    words: dict[str, int] = {}
    word_of_NT = torch.empty(len(pairs), len(templates), dtype=torch.long)
    for i, (text, free) in enumerate(zip(pairs.text_N, pairs.is_caption_N, strict=True)):
        for j, template in enumerate(templates):
            word_of_NT[i, j] = words.setdefault(text if free else template.replace("{c}", text), len(words))
    listed = list(words)
    table = [student.encode_text(listed[i : i + 256]) for i in range(0, len(listed), 256)]
    return torch.cat(table), word_of_NT


def stage_step(out: Path, name: str) -> int:
    """How many steps of a stage are done."""
    file = out / f"{name}.pt"
    return int(torch.load(file, weights_only=True)["step"]) if file.is_file() else 0


def run_stage(
    name: str,
    stage: Stage,
    params: dict[str, nn.Parameter],
    student: HuggingFaceEncoder,
    loss_fn: Callable[[int, torch.Generator], tuple[Tensor, dict[str, Tensor]]],
    out: Path,
    recipe: PretrainRecipe,
) -> None:
    """One stage: AdamW with warm-up and cosine, bf16 autocast, a checkpoint every `save_every` steps."""
    file = out / f"{name}.pt"
    for other in student.backbone.parameters():
        other.requires_grad_(False)
    decay = [p.requires_grad_(True) for p in params.values() if p.ndim > 1]
    plain = [p.requires_grad_(True) for p in params.values() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": stage.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98), eps=1e-6)
    step = 0
    if file.is_file():
        state = torch.load(file, weights_only=True)
        student.backbone.load_state_dict(state["model"], strict=False)
        step = state["step"]
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
    log = (out / "metrics.jsonl").open("a", encoding="utf-8")
    began, first = time.time(), step
    while step < stage.steps:
        warm = min(1.0, (step + 1) / max(1, stage.warmup_steps))
        for group in optimizer.param_groups:
            group["lr"] = stage.lr * warm * 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        g = torch.Generator().manual_seed((recipe.seed + 1) * 1_000_003 + step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss, terms = loss_fn(step, g)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(params.values()), 1.0)
        optimizer.step()
        if "logit_scale" in params:
            params["logit_scale"].data.clamp_(max=math.log(100))
        step += 1
        if step % recipe.save_every == 0 or step == stage.steps:
            rate = (step - first) * stage.batch_size / (time.time() - began)
            scores = (
                {d: score(student, d, 500) for d in recipe.val}
                if name == "image" and step % (5 * recipe.save_every) == 0
                else {}
            )
            record = {
                "stage": name,
                "step": step,
                "loss": float(loss.detach()),
                **{name: float(term.detach()) for name, term in terms.items()},
                "items_per_s": round(rate, 1),
                **scores,
            }
            log.write(json.dumps(record) + "\n")
            log.flush()
            console.print(record)
            state = {"model": {k: v.detach().clone() for k, v in student.backbone.named_parameters()}, "step": step}
            if step < stage.steps:
                state["optimizer"] = optimizer.state_dict()
            with atomic_path(file) as part:
                torch.save(state, part)


@torch.no_grad()
def score(student: HuggingFaceEncoder, data: str, n: int) -> float:
    """Zero-shot accuracy in percent on a seeded sample."""
    images = find_data(data, image_size=student.image_size).sample(n, seed=0)
    hits, counted = count_right(student, images)
    return round(100 * hits / counted, 1)


@torch.no_grad()
def count_right(model: DualEncoder, images: ImageSet) -> tuple[int, int]:
    """How many readable images the model classifies right without an attack, and how many there are."""
    classifier = ZeroShotClassifier(model, images.class_names, images.templates)
    hits = counted = 0
    for start in range(0, len(images), 250):
        batch = images.collate(images.__getitems__(range(start, min(start + 250, len(images)))))
        hits += int((classifier(batch.image_BCHW.float() / 255).argmax(1) == batch.label_B).sum())
        counted += len(batch.label_B)
    return hits, counted


def save(student: HuggingFaceEncoder, out: Path) -> Path:
    """The model as float16 safetensors in Hugging Face `CLIPModel` format."""
    with atomic_folder(out / "model") as folder:
        student.backbone.half()
        student.save_pretrained(folder)
        student.backbone.float()
    return out / "model"


def _kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(teacher || student), mean over rows, in fp32."""
    target, prediction = F.log_softmax(teacher_logits.float(), -1), F.log_softmax(student_logits.float(), -1)
    return F.kl_div(prediction, target, log_target=True, reduction="batchmean")
