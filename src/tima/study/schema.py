"""A study as a YAML file: rows (a method and what differs in it) x seeds x eps x training sets, and how all are judged.

    base: {model: nano, data: pictures, steps: 150, batch_size: 64}     # what all runs share: fields of a training recipe
    seeds: [0]
    eps: [4/255]
    search: {grid: {lr: [3e-4, 1e-3]}, settings: {steps: 60}}           # on validation only, so many trials for every row
    evaluate: [{protocol: apgd, data: [cifar10, groceries]}]
    reference: tecoa
    rows:
      tecoa: {method: tecoa}
      tima: {method: tima, grid: {method_config.w_takd: [0.3, 1.0]}}

Unknown keys are refused, recipes are validated for every row before anything runs.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tima._reading import read_yaml_object
from tima.config import Eps, apply_overrides, validate
from tima.errors import RecipeError
from tima.study.claims import Claim

Rule = Literal["mean", "robust", "balance"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Search(_Part):
    """Hyper-parameters are chosen on held-out images and held-out classes of the training set. No evaluation set is opened."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default={}, description="recipe field (dotted) -> values, for every row; a row's own grid adds keys or replaces these"
    )
    settings: dict[str, Any] = Field(default={}, description="recipe fields that differ in trials, such as fewer steps")
    seed: int = Field(default=0, description="of the trials")
    rule: Rule = Field(
        default="mean",
        description="what the winner has most of. mean: mean of clean and robust accuracy over both validation sets; robust: "
        "mean robust accuracy over both; balance: geometric mean of the mean clean and the mean robust accuracy, in which what "
        "withstands nothing has 0. A tie goes to the trial that comes first in the grid",
    )


class Row(_Part):
    """One line of the comparison."""

    method: str = Field(description="a name of `tima methods`")
    title: str = Field(default="", description="what tables call it; by default the row's name")
    settings: dict[str, Any] = Field(default={}, description="recipe fields (dotted) that differ from base")
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default={}, description="see `search.grid`")
    search: str = Field(
        default="own",
        description="own: its own search; none: its settings stand; or a row's name: take that row's winner. With that row's "
        "method it is that row in another setting: no candidate for the best of the rest, and on one line with it in figures",
    )
    seeds: list[int] = Field(default=[], description="instead of the study's")
    eps: list[Eps] = Field(default=[], description="training eps instead of the study's")
    data: list[str] = Field(default=[], description="training sets instead of the study's")


class Headline(_Part):
    """Rows that get more seeds and may get a heavier evaluation."""

    rows: list[str] = Field(default=[], description="names of rows")
    seeds: list[int] = Field(default=[], description="instead of the study's")
    best_of_rest: bool | Rule = Field(
        default=False,
        description="also the one of the other rows whose first run has the best validation: by a rule as in "
        "search.rule; true takes search.rule itself. `mean` can choose what withstands nothing but is good without attack",
    )


class Evaluation(_Part):
    """One protocol on some sets for some rows."""

    protocol: str = Field(description="a name of `tima protocols` or a YAML file")
    data: list[str] = Field(min_length=1, description="data sets; those that are not on this machine are reported as missing")
    changes: dict[str, Any] = Field(default={}, description="fields of the protocol that differ; it is then called custom")
    rows: Literal["all", "headline"] = "all"
    seeds: Literal["all", "first"] = Field(default="all", description="first: only the first seed of each row")
    batch_size: int = Field(default=250, ge=1, description="images at a time; changes speed, never a number")


class Study(_Part):
    """A whole study. See the module's docstring."""

    name: str = Field(pattern=r"^[A-Za-z0-9][\w-]*$", description="its folder and its stored results are called so")
    about: str = ""
    base: dict[str, Any] = Field(default={}, description="fields of a training recipe that all runs share")
    seeds: list[int] = Field(default=[0], min_length=1)
    eps: list[Eps] = Field(default=[4 / 255], min_length=1, description="training eps")
    data: list[str] = Field(default=[], description="training sets; by default the one of base")
    search: Search | None = None
    headline: Headline = Headline()
    evaluate: list[Evaluation] = Field(default=[], description="empty: trainings with their validation, no results")
    reference: str = Field(description="the row that all others are tested against")
    rows: dict[str, Row] = Field(min_length=1)
    equal_to: list[str] = Field(default=[], description="rows at whose clean accuracy all others are compared, see `equal.py`")
    claims: list[Claim] = Field(default=[], description="sentences to be judged by the intervals, see `claims.py`")

    @field_validator("rows")
    @classmethod
    def _names(cls, rows: dict[str, Row]) -> dict[str, Row]:
        for name in rows:
            if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
                raise ValueError(f"'{name}' is no name for a row: take letters, digits, '-', '_' and '.'")
        return rows

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known = list(self.rows)
        named = {"reference": [self.reference], "headline.rows": self.headline.rows, "equal_to": self.equal_to}
        named |= {f"claims.{i}": claim.named_rows() for i, claim in enumerate(self.claims)}
        named |= {f"rows.{name}.search": [r.search] for name, r in self.rows.items() if r.search not in ("own", "none")}
        for where, names in named.items():
            for name in names:
                if name not in known:
                    raise ValueError(f"{where}: there is no row '{name}'; there are {', '.join(known)}")
        for name, row in self.rows.items():
            if row.search not in ("own", "none") and self.rows[row.search].search != "own":
                raise ValueError(f"rows.{name}.search: row '{row.search}' has no search of its own to take the winner of")
            if row.grid and (self.search is None or row.search != "own"):
                raise ValueError(f"rows.{name}.grid: this row is not searched; give the study a search, or take the grid out")
        return self

    def title(self, row: str) -> str:
        return self.rows[row].title or row

    def content(self) -> dict[str, Any]:
        """Every field as JSON values, defaults left out."""
        return self.model_dump(mode="json", exclude_defaults=True)


def parent(row: str, rows: Mapping[str, Any]) -> str:
    """The row that this one varies: whose search it takes over, with the same method; else itself. `rows`: as kept."""
    source = str(rows[row].get("search", "own"))
    return source if source in rows and rows[source]["method"] == rows[row]["method"] else row


def studies_folder() -> Path:
    """Where the studies that come with the package lie."""
    return Path(str(files("tima") / "studies"))


def known_studies() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in studies_folder().glob("*.yaml"))


def load_study(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """A study by the path of its YAML file or by the name of one that comes with the package, then `key=value` changes.

    Raises:
        RecipeError: not found, not YAML, or what does not validate, row by row.
    """
    from tima.study.expand import check

    path = Path(name_or_path).expanduser()
    found = next((p for p in (path, studies_folder() / f"{name_or_path}.yaml") if p.is_file()), None)
    if found is None:
        raise RecipeError(f"Study '{name_or_path}' was not found: neither a file nor one of {', '.join(known_studies())}.")
    study: Study = validate(Study, apply_overrides(read_yaml_object(found, "study"), overrides), f"Study {found}")
    check(study)
    return study
