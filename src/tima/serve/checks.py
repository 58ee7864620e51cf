"""What is asked for against what this server allows: names, templates, models, steps."""

import unicodedata
from collections.abc import Mapping, Sequence

from tima.data.image_set import DEFAULT_TEMPLATES, check_class_names, check_templates
from tima.eps import format_eps
from tima.serve.attack import Wanted
from tima.serve.limits import Limits
from tima.serve.models import ServedModel
from tima.serve.problems import Problem
from tima.serve.schemas import AttackRequest

DEFAULT_STEPS = 20


def check_texts(classes: Sequence[str], templates: Sequence[str], limits: Limits) -> tuple[list[str], list[str]]:
    """Trimmed class names and the templates, the default one where there are none.

    Raises:
        Problem: 422, too many, too long, or with characters that are no text.
        DataError: none, two alike, a template without `{c}`.
    """
    found = []
    for what, texts, most in (("classes", classes, limits.classes), ("templates", templates, limits.templates)):
        if len(texts) > most:
            raise Problem(422, f"There are {len(texts)} {what}; {most} are taken at most.", where=what, do="Send fewer.")
        for number, text in enumerate(texts):
            if len(text) > limits.name_length:
                said = f"Entry {number} has {len(text)} characters; {limits.name_length} are taken at most."
                raise Problem(422, said, where=f"{what}.{number}", do="Shorten it.")
            if any(unicodedata.category(sign) in ("Cc", "Cs", "Cn") for sign in text):
                said = f"Entry {number} holds control characters."
                raise Problem(422, said, where=f"{what}.{number}", do="Send text of one line.")
        found.append([text.strip() for text in texts])
    check_class_names(found[0], "classes")
    if found[1]:
        check_templates(found[1], "templates")
    return found[0], found[1] or list(DEFAULT_TEMPLATES)


def check_models(ids: Sequence[str] | None, models: Mapping[str, ServedModel], limits: Limits) -> list[ServedModel]:
    """The models asked for, without repeats; by default the first ones, as many as one request may have.

    Raises:
        Problem: 404 for an id that is not in the list, 422 for none or too many.
    """
    chosen = list(dict.fromkeys(list(models)[: limits.models] if ids is None else ids))
    for key in chosen:
        if key not in models:
            raise Problem(404, f"There is no model '{key}'.", where="models", do=f"Choose from: {', '.join(models)}.")
    if not chosen or len(chosen) > limits.models:
        said = f"{len(chosen)} models were chosen; 1 to {limits.models} can be."
        raise Problem(422, said, where="models", do="Choose others.")
    return [models[key] for key in chosen]


def check_attack(asked: AttackRequest, classes: Sequence[str], limits: Limits) -> Wanted:
    """The attack with class numbers for names.

    Raises:
        Problem: 422, more steps or a larger eps than allowed, or a label or target that is none of the classes.
    """
    steps = min(DEFAULT_STEPS, limits.steps) if asked.steps is None else asked.steps
    if steps > limits.steps:
        said = f"{steps} steps are more than the {limits.steps} that are taken."
        raise Problem(422, said, where="steps", do="Send fewer.")
    if asked.eps > limits.eps * (1 + 1e-9):
        said = f"eps {format_eps(asked.eps)} is above {format_eps(limits.eps)}, the largest that is taken."
        raise Problem(422, said, where="eps", do="Send a smaller one.")
    numbers: list[int | None] = []
    for what, name in (("label", asked.label), ("target", asked.target)):
        if name is not None and name.strip() not in classes:
            raise Problem(422, f"'{name}' is none of the classes.", where=what, do=f"Choose from: {', '.join(classes)}.")
        numbers.append(None if name is None else list(classes).index(name.strip()))
    return Wanted(asked.eps, steps, numbers[0], numbers[1], asked.random_start, asked.seed)
