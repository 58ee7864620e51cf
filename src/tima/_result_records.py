"""The records inside a result file, validated on writing and on reading. See `tima.results`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Verdict = Literal["reliable", "suspicious", "cannot judge"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    def __getitem__(self, key: str) -> Any:
        """`result["clean"]["accuracy"]`, as in the JSON file."""
        for name, info in type(self).model_fields.items():
            if key in (info.alias, name):
                return getattr(self, name)
        raise KeyError(key)


class Metrics(_Record):
    """CLIP_benchmark's clean metrics. `acc5` is null below five classes."""

    acc1: Share
    acc5: Share | None
    mean_per_class_recall: Share


class Margins(_Record):
    """Label's logit minus the best other one, over the images: a histogram (one edge more than counts) and its centre."""

    mean: float
    median: float
    edges: list[float]
    counts: list[Count]


class Clean(_Record):
    """`ece`: expected calibration error. `correct_per_class`: in the order of `class_names`."""

    n: Count
    correct: Count
    accuracy: Share
    ci95: tuple[Share, Share]
    ece: Share | None = None
    correct_per_class: list[Count] | None = None
    margins: Margins | None = None


class AttackRecord(_Record):
    """One attack of the protocol: how many images it broke that nothing before it had broken, and what that cost."""

    name: str
    params: dict[str, Any]
    broken: Count
    attacked: Count | None = None
    forwards: Count | None = None
    backwards: Count | None = None
    wall_time_s: float | None = None


class Indicator(_Record):
    """One sign of attack health. `value` is null where it could not be measured, and `note` says why."""

    name: str
    value: float | None
    limit: float | None = None
    fired: bool
    note: str = ""


class Health(_Record):
    """Whether the attack can be believed: `reliable`, or `suspicious` with a reason for each indicator that fired.

    `cannot judge`: no image is right without an attack, so there was nothing to look at.
    """

    verdict: Verdict
    reasons: list[str] = []
    indicators: list[Indicator] = []
    probe_n: Count = 0

    def __str__(self) -> str:
        return self.verdict if not self.reasons else f"{self.verdict}: {'; '.join(self.reasons)}"


class Robust(_Record):
    """The outcome at one eps. `already_broken`: wrong when clean or broken at a smaller eps, so not attacked again.

    `broken_8bit`: images broken by an attack up to this eps that are still wrong when the adversarial image is stored with
    8 bits, rounded inside eps. Null unless the protocol asks.
    `margin_similarity`: Pearson's correlation of an image's margin with the cosine of its class text to the nearest other one.
    """

    eps: float = Field(gt=0)
    eps_text: str
    n: Count
    correct: Count
    robust_accuracy: Share
    ci95: tuple[Share, Share]
    already_broken: Count
    attacks: list[AttackRecord]
    forwards: Count
    backwards: Count
    wall_time_s: float = Field(ge=0)
    ece: Share | None = None
    correct_per_class: list[Count] | None = None
    margins: Margins | None = None
    margin_similarity: float | None = None
    broken_8bit: Count | None = None
    health: Health | None = None


class Quarantined(_Record):
    where: str
    why: str


class Result(_Record):
    """What was measured, on what, how and with which code.

    `grid`: side in pixels of the images that eps applies to. `images_sha256`: of every image that was evaluated, as the attack
    got it (see `tima.evaluation.fingerprint`). `repeat_difference`: largest difference between the logits of
    two calls on the same images, 0 for a deterministic model. `duplicate_prompts`: groups of the set's classes that the model
    was asked about with the same tokens; the protocol says what became of them. `fallbacks`: what had to be done otherwise
    than asked.
    """

    schema_: Literal["tima-result/1", "tima-result/2", "tima-result/3", "tima-result/4"] = Field(
        default="tima-result/4", alias="schema"
    )
    dataset: str
    model: str
    pretrained: str
    task: Literal["zeroshot_classification"] = "zeroshot_classification"
    language: str = "en"
    metrics: Metrics
    clean: Clean
    robust: list[Robust] = []
    attack: str
    norm: str
    n: Count
    seed: int
    class_names: list[str]
    class_counts: list[Count] | None = None
    margin_similarity: float | None = None
    templates: list[str]
    duplicate_prompts: list[list[str]] = []
    protocol: dict[str, Any]
    checkpoint_sha256: str
    versions: dict[str, str]
    machine: dict[str, str] | None = None
    grid: Count | None = None
    images_sha256: str | None = None
    repeat_difference: float | None = None
    fallbacks: list[str] = []
    quarantine: list[Quarantined] = []
    train_domain: bool = False
    wall_time_s: float = Field(ge=0)
    complete: bool = False
    finished: str | None = None

    @field_validator("protocol")
    @classmethod
    def _named(cls, value: dict[str, Any]) -> dict[str, Any]:
        """A number without a protocol means nothing, so there is no such result."""
        if lacking := [key for key in ("name", "version", "attack", "eps") if not value.get(key)]:
            raise ValueError(f"a result needs the protocol that it was measured by; its {', '.join(lacking)} is missing")
        return value

    @model_validator(mode="after")
    def _order_of_truth(self) -> "Result":
        """Robust accuracy never exceeds clean accuracy nor that of a smaller eps, and every image is counted exactly once."""
        previous, where = self.clean.correct, "clean"
        if self.clean.n != self.n or any(r.n != self.n for r in self.robust):
            raise ValueError("the counts of images differ within the result")
        for row in self.robust:
            if row.correct > previous:
                raise ValueError(f"{row.correct} correct at eps {row.eps_text}, but only {previous} at {where}")
            broken = sum(attack.broken for attack in row.attacks)
            if row.already_broken != row.n - previous or row.correct + row.already_broken + broken != row.n:
                raise ValueError(
                    f"{row.correct} correct, {row.already_broken} already broken and {broken} broken at eps {row.eps_text} do "
                    f"not add up to {row.n} images, of which {previous} were correct at {where}"
                )
            previous, where = row.correct, row.eps_text
        if [row.eps for row in self.robust] != sorted({row.eps for row in self.robust}):
            raise ValueError("the eps are not in rising order")
        if self.complete and len(self.robust) != len(self.protocol.get("eps", [])):
            raise ValueError(f"marked complete with {len(self.robust)} of {len(self.protocol.get('eps', []))} eps")
        return self

    def _repr_html_(self) -> str:
        from tima._notebook import result_html

        return result_html(self)

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in the file."""
        return self.model_dump(mode="json", by_alias=True)
