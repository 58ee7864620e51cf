"""What is known of an exported model: the run that made it, and the results that were measured on just these weights."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tima.config import load_yaml
from tima.eps import format_eps, parse_eps
from tima.errors import ModelError
from tima.evaluation.subject import weights_sha256 as hash_of
from tima.models import DualEncoder, load_model
from tima.report.comparison import protocol_label
from tima.report.runs import read_runs
from tima.results import Result

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Story:
    """Facts of a card.

    Attributes:
        title: the card's heading.
        method: the training method's name, None for a model that nobody tuned here.
        method_title: the method as reports name it, with what was added to it.
        base: what training started from, or the model's own name.
        recipe: `recipe.yaml`, empty without a run.
        summary: `summary.json`, empty without a finished run.
        results: complete results of these weights.
        left_out: why other stored results are not on the card.
    """

    title: str
    method: str | None
    base: str
    recipe: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    method_title: str = ""

    @property
    def sentence(self) -> str:
        """The first sentence of the card."""
        if self.method is None:
            return f"The dual encoder `{self.base}` as exported by tima, not tuned by it."
        eps = f" at eps {format_eps(parse_eps(self.recipe['eps']))}" if self.recipe.get("eps") else ""
        name = self.method_title or self.method
        return f"The dual encoder `{self.base}`, tuned with {name}{eps}: a zero-shot classifier for pictures under attack."

    @property
    def hub_base(self) -> str | None:
        """The base model's name on a hub, if it has one: a folder's path is nobody else's business."""
        name = self.base.removeprefix("hf-hub:")
        return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else None

    def label(self, result: Result) -> str:
        """`protocol@version`, which a number means nothing without; with its hash where that name does not say which it was."""
        name = protocol_label(result.protocol)
        hashes = {other.protocol.get("sha256") for other in self.results if protocol_label(other.protocol) == name}
        which = f" ({str(result.protocol.get('sha256', ''))[:8]})" if name.startswith("custom@") or len(hashes) > 1 else ""
        return f"protocol {name}{which}"


def public_name(name: str) -> str:
    """A hub's or a library's name as it is; of a place on somebody's disk its last part only."""
    local = name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).expanduser().exists()
    return Path(name).name if local else name


def read_story(model: DualEncoder, run: Path | None, weights_sha256: str) -> Story:
    """Read the run, if there is one.

    Raises:
        ResultError: a file of the run that cannot be read.
    """
    own = Path(model.name).name or model.name
    if run is None or not run.is_dir() or not any((run / x).exists() for x in ("recipe.yaml", "summary.json", "results")):
        return Story(own, None, public_name(model.name))
    found = read_runs([run])[0]
    recipe = load_yaml(run) if (run / "recipe.yaml").is_file() else {}
    results, left_out = [], []
    for stored in found.results:
        if stored.record.checkpoint_sha256 != weights_sha256:
            left_out.append(f"{stored.path.name} was measured on other weights")
        elif not stored.record.complete:
            left_out.append(f"{stored.path.name} is not finished")
        else:
            results.append(stored.record)
    base = public_name(str(recipe.get("model") or found.summary.get("model") or model.name))
    method = recipe.get("method") or found.summary.get("method")
    if method is None:
        return Story(run.resolve().name, None, base, recipe, found.summary, results, left_out)
    if not (results or Path(model.name) == run or _made(run, weights_sha256)):
        left_out.append(f"the recipe of {run.resolve().name} made other weights")
        return Story(own, None, public_name(model.name), left_out=left_out)
    return Story(run.resolve().name, str(method), base, recipe, found.summary, results, left_out, found.name)


def _made(run: Path, weights_sha256: str) -> bool:
    """Whether these are the weights that the run kept."""
    try:
        return hash_of(load_model(run)) == weights_sha256
    except ModelError:  # it has kept none
        return False
