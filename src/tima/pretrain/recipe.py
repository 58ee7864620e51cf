"""Every setting of a pre-training run. Stored with the run as `recipe.yaml`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageSource(_Strict):
    """A labelled or captioned set of pictures; a labelled one becomes pairs through the templates."""

    data: str = Field(description="as for --data: a name or a folder, with ':train' for the split")
    per_class: int | None = Field(default=None, description="at most this many pictures of each class, seeded")
    weight: float = Field(default=1.0, gt=0, description="how often one of its pictures is drawn, relative to the others'")


class Shape(_Strict):
    """Size of the student. Hugging Face `CLIPConfig` terms."""

    image_size: int = 48
    patch_size: int = 8
    vision_width: int = 192
    vision_layers: int = 6
    text_width: int = 192
    text_layers: int = 4
    vocab_size: int = 12000
    context_length: int = 77


class Stage(_Strict):
    """One optimiser run: linear warm-up, cosine to zero."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float = 0.05
    warmup_steps: int = 200
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: the matrices inside the layers by Muon (torch >= 2.9), all else by AdamW"
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of a running mean of the weights, which is what is kept; 0: none"
    )


class PretrainRecipe(_Strict):
    """Settings of `tima pretrain`."""

    teacher: str = Field(description="folder of a pre-trained dual encoder; both towers are distilled from it")
    teacher_image_size: int | None = Field(default=None, description="pixels the teacher sees; None takes its own size")
    start: str | None = Field(
        default=None,
        description="a model distilled from this teacher: nano, a run or a folder. Its text tower is kept as it is (so "
        "there is no text stage) and its image tower trained on; shape, text and tokenizer are not used. None: random weights",
    )
    images: list[ImageSource]
    captions: list[str] = Field(default=[], description="parquet files with image and caption columns and no label")
    caption_weight: float = Field(default=1.0, gt=0, description="as `weight` of an image source, for all of `captions`")
    nouns: str | None = Field(default=None, description="text file, one noun a line, most used first")
    sentences: str | None = Field(default=None, description="text file, one sentence a line")
    tokenizer: str | None = Field(default=None, description="folder of a tokenizer, or nano; None learns one from the texts")
    frequent_nouns: int = Field(default=4500, description="the first so many nouns are seen in several templates")
    bank_nouns: int = Field(default=1000, description="the first so many nouns join the class names as distillation targets")
    templates: list[str] = Field(
        default=[
            "a photo of a {c}.",
            "{c}",
            "a picture of a {c}.",
            "a drawing of a {c}.",
            "a blurry photo of a {c}.",
            "a photo of the small {c}.",
            "a close-up photo of a {c}.",
        ]
    )
    shape: Shape = Shape()
    text: Stage = Stage(steps=6000, batch_size=256, lr=1e-3)
    image: Stage = Stage(steps=4000, batch_size=256, lr=1e-3)
    broader: str | None = Field(
        default=None, description="YAML file of `word: [class names]`, or builtin: captions may say what a class is a kind of"
    )
    broader_share: float = Field(
        default=0.5, ge=0, le=1, description="how often a picture whose class has broader words is captioned with one of them"
    )
    keep_patches: float = Field(
        default=0.5, gt=0, le=1, description="share of the patches the image tower sees while learning (FLIP)"
    )
    whole_share: float = Field(
        default=0.25, ge=0, le=1, description="last share of the image steps, in which it sees all of them"
    )
    w_contrastive: float = Field(default=1.0, description="symmetric contrastive loss on image-text pairs")
    w_bank: float = Field(default=2.0, description="KL of teacher and student over the bank of nouns and class names")
    w_feature: float = Field(default=2.0, description="1 - cosine of student and teacher image embeddings")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="as in training: auto is bf16 where the processor computes in it; the run stores which"
    )
    seed: int = 0
    save_every: int = 200
    val: list[str] = Field(default=[], description="sets scored (zero-shot) while training; never used to choose anything")

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "PretrainRecipe":
        if self.start is not None and self.tokenizer is not None:
            raise ValueError(f"start: {self.start} brings a tokenizer of its own. Leave tokenizer out, or start.")
        return self
