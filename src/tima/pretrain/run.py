"""The pre-training loop: first the text tower from the teacher's texts, then the image tower from pairs and teacher.

    tima pretrain --recipe nano.yaml --out runs/nano          # resumes by itself where it was stopped

Losses (shapes: `B` pairs, `D` width, `K` bank entries; `v`, `t` student, `v0`, `t0` teacher, all unit-norm):

(1) text   `1 - cos(t, t0) + KL(softmax(s t0 @ t0.T) || softmax(s t @ t0.T))`, the second over the batch
(2) image  `w_contrastive * symmetric contrastive(v, t)` [Radford et al. 2021], every true pair of the batch is a positive
           `+ w_bank * KL(softmax(s v0 @ bank.T) || softmax(s v @ bank.T))` over nouns no picture need have shown
           `+ w_feature * (1 - cos(v, v0))`
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from tima._files import write_text
from tima._precision import settle
from tima.config import load_yaml, validate
from tima.data import ImageSet, find_data
from tima.data.augment import augment
from tima.errors import RecipeError, TimaError
from tima.models import DualEncoder, ZeroShotClassifier, load_model
from tima.models.hugging_face import HuggingFaceEncoder
from tima.pretrain import cache
from tima.pretrain.masked import encode_patches
from tima.pretrain.recipe import PretrainRecipe
from tima.pretrain.sources import Pairs, gather_pairs, gather_texts
from tima.pretrain.stage import console, run_stage, stage_step
from tima.pretrain.student import build_student, find_tokenizer, save, start_student
from tima.pretrain.texts import encode_texts, read_broader


def pretrain(recipe: PretrainRecipe, out: str | Path) -> Path:
    """Run or resume; returns the folder of the finished model (Hugging Face format, float16 safetensors).

    Raises:
        TimaError: the folder holds work of a run with other settings.
    """
    out = Path(out)
    recipe = _settled(recipe, out)
    _claim(out, recipe)
    write_text(out / "recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False))
    pairs = gather_pairs(recipe)
    texts, bank = gather_texts(recipe, pairs)
    console.print(f"{len(pairs):,} pairs {pairs.corpora}, {len(texts):,} texts, bank of {len(bank):,}")
    teacher = load_model(recipe.teacher)
    teacher.backbone.set_attn_implementation("eager")
    if recipe.start is not None:  # its text tower stays as it is
        student = start_student(recipe.start, out, teacher.embed_dim)
    else:
        tokenizer = find_tokenizer(recipe, out, [*texts, *pairs.class_names])
        student = build_student(recipe.shape, tokenizer, teacher.embed_dim, recipe.seed)
        text_stage(recipe, out, student, teacher, texts)
    image_stage(recipe, out, student, teacher, pairs, bank)
    return save(student, out)


def _settled(recipe: PretrainRecipe, out: Path) -> PretrainRecipe:
    """With `precision: auto` decided: as a run in `out` has it, else by this processor."""
    if recipe.precision != "auto":
        return recipe
    stored = out / "recipe.yaml"
    try:
        begun = validate(PretrainRecipe, load_yaml(stored), str(stored)).precision if stored.is_file() else "auto"
    except RecipeError:  # `_claim` says what is wrong with the folder
        begun = "auto"
    return recipe.model_copy(update={"precision": settle(begun, "cpu")})


def _claim(out: Path, recipe: PretrainRecipe) -> None:
    """Refuse a folder whose checkpoints, tokenizer or cached teacher belong to other settings: they would be taken over."""
    stored = out / "recipe.yaml"
    if not stored.is_file() or not any(
        (out / name).exists() for name in ("text.pt", "image.pt", "start", "tokenizer", "cache")
    ):
        return
    now = _settings(recipe)
    try:
        before = _settings(validate(PretrainRecipe, load_yaml(stored), str(stored)))
    except RecipeError:
        before = {}
    if before.get("precision") == "auto":  # begun before it was stored
        before["precision"] = now["precision"]
    if different := [name for name in now if before.get(name) != now[name]]:
        raise TimaError(
            f"{out} holds a run with other settings ({', '.join(different)}; see {stored}). Give another --out, or delete the "
            f"folder, or go on with its own settings: tima pretrain --recipe {stored} --out {out}"
        )


def _settings(recipe: PretrainRecipe) -> dict[str, Any]:
    """What makes the weights; files count by their names, as a run may go on where they lie elsewhere."""
    found = recipe.model_dump(exclude={"save_every", "val"})
    for key in ("teacher", "start", "nouns", "sentences", "tokenizer", "broader"):
        found[key] = found[key] and Path(found[key]).name
    found["captions"] = [Path(file).name for file in recipe.captions]
    found["images"] = [source | {"data": Path(source["data"]).name} for source in found["images"]]
    return found


def text_stage(recipe: PretrainRecipe, out: Path, student: HuggingFaceEncoder, teacher: DualEncoder, texts: list[str]) -> None:
    """Distil the text tower, loss (1)."""
    done, bf16 = stage_step(out, "text") >= recipe.text.steps, recipe.precision == "bf16"
    t0_KD = torch.empty(0) if done else cache.teacher_texts(out / "cache", teacher, texts, "teacher-texts", bf16)
    teacher_scale = float(teacher.logit_scale.detach())
    by_length = torch.tensor(sorted(range(len(texts)), key=lambda i: len(texts[i])))
    window = min(8 * recipe.text.batch_size, len(texts))

    def loss_fn(step: int, g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        # texts of about one length share a batch: otherwise four fifths of the tokens would be padding
        start = int(torch.randint(len(texts) - window + 1, (1,), generator=g))
        rows = by_length[start + torch.randperm(window, generator=g)[: recipe.text.batch_size]]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            t_BD = student.encode_text([texts[i] for i in rows.tolist()]).float()
        t0_BD = t0_KD[rows].float()
        cosine = (t_BD * t0_BD).sum(-1).mean()
        kl = _kl(teacher_scale * t0_BD @ t0_BD.T, teacher_scale * t_BD @ t0_BD.T)
        return 1 - cosine + kl, {"cosine": cosine, "kl": kl}

    run_stage(
        "text", recipe.text, student.text_parameters(), student, loss_fn, out, seed=recipe.seed, save_every=recipe.save_every
    )


def image_stage(
    recipe: PretrainRecipe, out: Path, student: HuggingFaceEncoder, teacher: DualEncoder, pairs: Pairs, bank: list[str]
) -> None:
    """Teach the image tower, loss (2), against the locked text tower."""
    bf16 = recipe.precision == "bf16"
    prompts = [recipe.templates[0].replace("{c}", noun) for noun in bank]
    bank_KD = cache.teacher_texts(out / "cache", teacher, prompts, "teacher-bank", bf16).float()
    image_N = cache.pictures(out / "cache", pairs, student.image_size)
    v0_ND = cache.teacher_images(out / "cache", teacher, pairs, recipe.teacher_image_size, bf16)
    teacher_scale = float(teacher.logit_scale.detach())
    said = encode_texts(student, pairs, recipe.templates, read_broader(recipe.broader))
    whole_from = round((1 - recipe.whole_share) * recipe.image.steps)
    batch_size = min(recipe.image.batch_size, len(pairs))
    dtype = torch.bfloat16 if bf16 else torch.float32

    def loss_fn(step: int, g: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = torch.multinomial(pairs.weight_N, batch_size, generator=g)
        t_BD, true_BB = said.draw(rows, recipe.broader_share if recipe.broader else 0.0, g)
        keep = 1.0 if step >= whole_from else recipe.keep_patches
        v_BD = encode_patches(student, augment(image_N[rows].float() / 255, g), keep, g, dtype)
        v0_BD = v0_ND[rows].float()
        contrastive = symmetric_contrastive(student.logit_scale * v_BD @ t_BD.T, true_BB)
        kl = _kl(teacher_scale * v0_BD @ bank_KD.T, teacher_scale * v_BD @ bank_KD.T)
        cosine = (v_BD * v0_BD).sum(-1).mean()
        loss = recipe.w_contrastive * contrastive + recipe.w_bank * kl + recipe.w_feature * (1 - cosine)
        return loss, {"contrastive": contrastive, "bank": kl, "cosine": cosine}

    run_stage(
        "image",
        recipe.image,
        student.image_parameters() | {"logit_scale": student.backbone.logit_scale},
        student,
        loss_fn,
        out,
        seed=recipe.seed,
        save_every=recipe.save_every,
        score=lambda data: score(student, data, 500),
        val=recipe.val,
    )


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


def symmetric_contrastive(logits_BB: Tensor, true_BB: Tensor) -> Tensor:
    """Mean of both directions' cross-entropies; all texts true of a picture, and all pictures a text is true of, share it."""
    target_BB = true_BB.float()
    to_text = F.cross_entropy(logits_BB, target_BB / target_BB.sum(1, keepdim=True))
    to_image = F.cross_entropy(logits_BB.T, target_BB.T / target_BB.T.sum(1, keepdim=True))
    return (to_text + to_image) / 2


def _kl(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(teacher || student), mean over rows, in fp32."""
    target, prediction = F.log_softmax(teacher_logits.float(), -1), F.log_softmax(student_logits.float(), -1)
    return F.kl_div(prediction, target, log_target=True, reduction="batchmean")
