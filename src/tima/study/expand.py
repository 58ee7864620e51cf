"""From a study to its trainings: every combination as an ordinary training recipe with a folder of its own.

A folder is named after the method and a hash of the recipe's settings, so that a run belongs to its settings and not to its
place in the file: rows can be added, and a trial that equals a final run is trained once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from tima._files import sha256_json
from tima.config import TrainRecipe, apply_overrides, validate
from tima.errors import RecipeError
from tima.protocols import Protocol, load_protocol
from tima.study.schema import Evaluation, Row, Study


@dataclass(frozen=True)
class Training:
    """One `tima train`: for a row, either a trial of its search or a final run."""

    row: str
    recipe: TrainRecipe
    trial: Mapping[str, Any] | None = None

    @cached_property
    def key(self) -> str:
        """Name of its folder."""
        content = self.recipe.model_dump(mode="json", exclude_defaults=True)
        return f"{self.recipe.method}-{sha256_json(content)[:10]}"


def trials(study: Study, name: str) -> list[Training]:
    """The search of a row: the grid's points in the order of the file; empty when the row is not searched."""
    row = study.rows[name]
    if study.search is None or row.search != "own":
        return []
    grid = {**study.search.grid, **row.grid}
    eps, data = _axes(study, row)
    found = []
    for values in product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        settings = {**row.settings, **point, **study.search.settings}
        recipe = _recipe(study, name, settings, study.search.seed, eps[0], data[0])
        found.append(Training(name, recipe, point))
    return found


def finals(study: Study, name: str, chosen: Mapping[str, Any], seeds: list[int]) -> list[Training]:
    """The runs of a row that are evaluated, with the settings that its search chose."""
    row = study.rows[name]
    # a row that takes another's winner differs from it in its own settings; a searched row's grid decides over them
    settings = {**row.settings, **chosen} if row.search == "own" else {**chosen, **row.settings}
    eps, data = _axes(study, row)
    return [Training(name, _recipe(study, name, settings, s, e, d)) for d, e, s in product(data, eps, seeds)]


def first_seeds(study: Study, name: str) -> list[int]:
    """What a row gets by itself: its own seeds, else the study's."""
    return study.rows[name].seeds or study.seeds


def headline_seeds(study: Study, name: str) -> list[int]:
    """What a headline row gets."""
    return study.rows[name].seeds or study.headline.seeds or study.seeds


def protocol_of(evaluation: Evaluation) -> Protocol:
    """The protocol with the study's changes."""
    return load_protocol(evaluation.protocol).override(**evaluation.changes)


def check(study: Study) -> None:
    """Every recipe, method configuration and protocol must be valid, and every search as large as the others.

    Raises:
        RecipeError: what is wrong in which row.
    """
    from tima.attacks import find_stages
    from tima.methods import find_method

    counts: dict[str, int] = {}
    for name in study.rows:
        points = trials(study, name)
        if points:
            counts[name] = len(points)
        for training in points or finals(study, name, {}, first_seeds(study, name)):
            where = f"Study {study.name}, row {name}: method_config"
            validate(find_method(training.recipe.method).Config, training.recipe.method_config, where)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise RecipeError(
            f"Study {study.name}: every row's search must have as many trials as the others', or the comparison is not fair. "
            f"Trials: {listed}. Give rows without loss weights more learning rates (rows.NAME.grid), or search: none."
        )
    for evaluation in study.evaluate:
        protocol = protocol_of(evaluation)
        find_stages(protocol.attack, protocol.attack_params)
    if study.headline.best_of_rest and set(study.rows) <= set(study.headline.rows):
        raise RecipeError(f"Study {study.name}: headline.best_of_rest has no rows besides headline.rows to choose from.")


def _axes(study: Study, row: Row) -> tuple[list[float], list[str]]:
    default = TrainRecipe.model_fields["data"].default
    return row.eps or study.eps, row.data or study.data or [study.base.get("data", default)]


def _recipe(study: Study, name: str, settings: Mapping[str, Any], seed: int, eps: float, data: str) -> TrainRecipe:
    row = study.rows[name]
    words = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    values = apply_overrides(json.loads(json.dumps(study.base)), words)
    for key in ("method", "seed", "eps", "data"):
        if key in settings or (key in study.base and key != "data"):
            raise RecipeError(
                f"Study {study.name}, row {name}: '{key}' is set by the row or by the list of that name, not here."
            )
    values |= {"method": row.method, "seed": seed, "eps": eps, "data": data}
    recipe: TrainRecipe = validate(TrainRecipe, values, f"Study {study.name}, row {name}")
    return recipe
