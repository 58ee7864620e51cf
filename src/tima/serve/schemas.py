"""What the API takes and gives, for validation and for the OpenAPI document. Bounds that a server sets are in `checks.py`."""

import base64
import binascii
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tima.eps import parse_eps

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Ids = Annotated[list[Id] | None, Field(description="ids from /v1/models; all of them by default", max_length=64)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    classes: list[str] = Field(description="class names, no two alike; in a form one a line, or one line with commas between")
    templates: list[str] = Field(default=[], description="prompts with {c}; by default 'a photo of a {c}.'")
    models: Ids = None


class _PictureRequest(_Request):
    image: bytes = Field(
        description="a PNG, JPEG or WebP file; in JSON its bytes in base64",
        json_schema_extra={"format": "binary"},
    )

    @field_validator("image", mode="before")
    @classmethod
    def _from_base64(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return base64.b64decode(value.partition("base64,")[2] or value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("the picture is no valid base64") from None


class ClassifyRequest(_PictureRequest):
    """A picture and the class names to choose from."""


class AttackRequest(_PictureRequest):
    """A picture, class names, and how to attack."""

    eps: float = Field(default=4 / 255, gt=0, description="largest change of a pixel, as '4/255' or a number in [0, 1]")
    steps: int | None = Field(default=None, ge=1, description="steps of PGD; 20 by default, or the most that are allowed")
    label: str | None = Field(
        default=None, max_length=500, description="the right answer, to be driven away from; by default each model's own"
    )
    target: str | None = Field(default=None, max_length=500, description="drive the answer to this class instead")
    random_start: bool = Field(default=False, description="start in a random point within eps, not in the picture")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the random start")

    @field_validator("eps", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return parse_eps(value) if isinstance(value, str | int | float) else value


class TextsRequest(_Request):
    """Class names whose texts are to be looked at."""


class PictureFacts(BaseModel):
    format: str
    width: int
    height: int


class Answer(BaseModel):
    """One model's answer. `probabilities` are softmax shares in the order of `classes`."""

    model: str
    title: str
    answer: str
    probabilities: list[Share]


class ClassifyResponse(BaseModel):
    classes: list[str]
    templates: list[str]
    picture: PictureFacts
    results: list[Answer]
    seconds: float


class Trace(BaseModel):
    """Softmax shares on the way: a row for the start and for every step, a column for each class that is followed."""

    classes: list[str]
    probabilities: list[list[Share]]
    kept_step: int = Field(description="the step whose picture was kept, the one of highest loss; 0 is the start")


class Images(BaseModel):
    """PNG in base64, at the model's input size. `perturbation` is amplified so that eps fills the range; grey is no change."""

    clean: str
    perturbation: str
    adversarial: str


class Attacked(BaseModel):
    """One model under the attack that was made against it. The adversarial picture is judged as it is stored, with 8 bits."""

    model: str
    title: str
    label: str = Field(description="the class it was driven away from, or to with a target")
    clean: Answer
    adversarial: Answer
    succeeded: bool = Field(description="the answer left the label, or reached the target")
    largest_change: int = Field(description="of a pixel, in 255ths")
    trace: Trace
    images: Images


class AttackResponse(BaseModel):
    classes: list[str]
    templates: list[str]
    eps: float
    eps_text: str
    steps: int
    targeted: bool
    results: list[Attacked]
    seconds: float


class TextPoint(BaseModel):
    """Where a class text stands, and which other one is nearest to it (by cosine)."""

    name: str
    x: float
    y: float
    nearest: str | None
    cosine: float | None


class ModelTexts(BaseModel):
    model: str
    title: str
    mean_cosine: float | None = Field(description="over all pairs")
    energy: float | None = Field(description="hyperspherical energy, small when the texts are far apart")
    points: list[TextPoint]


class TextsResponse(BaseModel):
    classes: list[str]
    templates: list[str]
    same_plane: bool = Field(description="whether points of different models can be compared by place")
    explained: Share = Field(description="share of the variance that the plane shows")
    results: list[ModelTexts]
    seconds: float


class ModelInfo(BaseModel):
    id: str
    title: str
    about: str
    image_size: int
    embed_dim: int


class ModelsResponse(BaseModel):
    models: list[ModelInfo]
    limits: dict[str, float]
    samples: list[dict[str, Any]]
    version: str


class RunsResponse(BaseModel):
    """Runs by id, and for each protocol the accuracy against eps with 95 % intervals, all as fractions in [0, 1]."""

    runs: list[dict[str, Any]]
    charts: list[dict[str, Any]]
