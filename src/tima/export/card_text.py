"""The sections of a model card, each a list of Markdown blocks; empty where nothing is known."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tima.data.names import set_name
from tima.data.table import licence_of
from tima.export.story import Story, public_name
from tima.models import DualEncoder
from tima.results import Result

if TYPE_CHECKING:
    from tima.export.targets import Classes, Target

SHOWN = ("method", "method_config", "model", "data", "eps", "steps", "batch_size", "lr", "precision", "templates", "seed")


def use(
    model: DualEncoder,
    targets: Sequence[str],
    classes: "Classes | None",
    table: "Mapping[str, Target]",
    checks: dict[str, dict[str, float]],
    *,
    nested: bool,
) -> list[str]:
    """How each part is loaded, and how far it was from ours when it was written."""
    blocks = ["## Use"]
    for name in targets:
        place = f"PATH/{name}" if nested else "PATH"
        code = table[name].usage(model, classes).replace("{folder}", place)
        worst = ", ".join(f"{what} {value:.1e}" for what, value in checks[name].items())
        blocks += [
            f"{table[name].about}, in `{name}`:" if nested else f"{table[name].about}; `PATH` is this folder:",
            f"```python\n{code}\n```",
            f"Compared with the original when it was written; largest differences: {worst}.",
        ]
    return blocks


def result_tables(story: Story) -> list[str]:
    """Accuracy in percent with n and 95 % interval, a table for each protocol and list of sizes."""
    if not story.results:
        why = "; ".join(story.left_out)
        nothing = "None were measured on these weights" + (f" ({why})." if why else ".")
        return ["## Results", f"{nothing} Measure some before you rely on this model: `tima evaluate --protocol standard`."]
    blocks = [
        "## Results",
        "Top-1 accuracy in percent, with 95 % intervals. Zero-shot, unless the set is marked as the training domain.",
    ]
    groups: dict[tuple[str, str, tuple[str, ...]], list[Result]] = {}
    for result in story.results:
        sizes = tuple(f"{result.norm} {row.eps_text}" for row in result.robust)
        groups.setdefault((story.label(result), result.attack, sizes), []).append(result)
    for (label, attack, sizes), members in groups.items():
        head = ["data", "n", "clean", *sizes]
        rows = [head, ["---", *["--:"] * (len(head) - 1)], *(_row(result) for result in members)]
        blocks += [f"{label[0].upper()}{label[1:]}, attack {attack}:", "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    suspicious = [f"{r.dataset} at {row.eps_text}" for r in story.results for row in r.robust if _suspicious(row)]
    if suspicious:
        blocks.append(f"Marked !: the attack did not look sound, so the number may be too high ({', '.join(suspicious)}).")
    rows_of_all = [row for result in story.results for row in result.robust]
    if unknown := sum(row.health is None for row in rows_of_all):
        blocks.append(f"Attack health was not looked at for {unknown} of the {len(rows_of_all)} robust numbers.")
    if story.left_out:
        blocks.append(f"Left out: {'; '.join(story.left_out)}.")
    return blocks


def _row(result: Result) -> list[str]:
    name = f"{result.dataset} (training domain)" if result.train_domain else result.dataset
    cells = [_cell(result.clean.accuracy, result.clean.ci95)]
    cells += [_cell(row.robust_accuracy, row.ci95) + (" !" if _suspicious(row) else "") for row in result.robust]
    return [name, f"{result.n:,}", *cells]


def _suspicious(row: Any) -> bool:
    return row.health is not None and row.health.verdict == "suspicious"


def _cell(share: float, ci95: tuple[float, float]) -> str:
    return f"{100 * share:.1f} ({100 * ci95[0]:.1f} to {100 * ci95[1]:.1f})"


def protocols(story: Story) -> list[str]:
    """What every protocol on the card fixes."""
    seen: dict[str, dict[str, Any]] = {}
    for result in story.results:
        seen.setdefault(story.label(result), result.protocol)
    if not seen:
        return []
    lines = [
        f"- {label}: "
        + ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in fields.items() if _says(key, value))
        for label, fields in seen.items()
    ]
    return ["## Protocol", "\n".join(lines)]


def training(story: Story) -> list[str]:
    if story.method is None:
        return []
    lines = [
        f"| {key.replace('_', ' ')} | {_value(_public(key, story.recipe[key]))} |"
        for key in SHOWN
        if story.recipe.get(key) not in (None, {})
    ]
    facts = {"train_images": "training images", "train_classes": "training classes", "best_step": "kept weights of step"}
    lines += [
        f"| {words} | {_value(story.summary[key])} |" for key, words in facts.items() if story.summary.get(key) is not None
    ]
    return ["## Training", "\n".join(["| | |", "|---|---|", *lines]) if lines else "Its recipe was not stored."]


def limits(model: DualEncoder, story: Story) -> list[str]:
    """Intended use, and what the numbers above do not say."""
    asked = f"Pictures of {model.image_size} x {model.image_size} pixels are what it sees, whatever comes in."
    return [
        "## Intended use and limits",
        "For research on robust zero-shot classification, and for applications whose makers test it on their own pictures, "
        "classes and threats first.",
        "\n".join(
            [
                "- Robust accuracy holds for the norm, sizes and attacks named above, on the model's own pixel grid. It says "
                "nothing about patches, larger changes, other norms, typed words in the picture or attacks that come later.",
                "- It is measured, not proven: a stronger attack can only lower it.",
                "- Tuning against attacks costs accuracy on clean pictures. The interval is of the sample, not of the world.",
                f"- {asked}",
                "- The class names and the prompt are part of the classifier. Another wording is another classifier.",
                "- It inherits the biases of what its base model was trained on. Not for identifying people, and not for "
                "decisions about them.",
            ]
        ),
    ]


def licences(story: Story) -> list[str]:
    """Of the base model and the training set, as far as they are known here."""
    lines = [
        "- Base model: `nano`, embedded in tima; its card lists what it saw and under which licences."
        if story.base == "nano"
        else f"- Base model: `{story.base}`; its own licence goes on to this one."
    ]
    data = story.recipe.get("data")
    if data:
        licence = licence_of(str(data)) or "not known to tima, state it before you publish"
        lines.append(f"- Training data: `{set_name(str(data))}`; licence: {licence}.")
    lines += (
        [f"- Evaluated on: {', '.join(dict.fromkeys(f'`{result.dataset}`' for result in story.results))}."]
        if story.results
        else []
    )
    return ["## Licences of what it was made from", "\n".join(lines)]


def provenance(story: Story, weights_sha256: str) -> list[str]:
    facts = {"weights SHA-256": weights_sha256, "recipe SHA-256": story.summary.get("recipe_sha256")}
    trained = story.summary.get("versions") or {}
    measured = [result.versions for result in story.results][:1]
    facts["trained with"] = ", ".join(f"{name} {number}" for name, number in trained.items()) or None
    facts["measured with"] = ", ".join(f"{name} {number}" for found in measured for name, number in found.items()) or None
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value]
    more = "`tima_export.json` lists the SHA-256 of every file of this export and the versions that wrote it."
    return ["## Provenance", "\n".join(["| | |", "|---|---|", *lines]), more]


def _public(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: public_name(part) if isinstance(part, str) else part for name, part in value.items()}
    return public_name(str(value)) if key in ("model", "data") else value


def _says(key: str, value: Any) -> bool:
    return key not in ("name", "version", "about", "description") and value not in (None, [], {}, "")


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(item) for item in value)
    return f"`{value}`" if isinstance(value, str) and "{" in value else str(value)
