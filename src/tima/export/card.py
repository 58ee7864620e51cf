"""The model card: `README.md` with the hub's metadata on top. Its numbers are those of the run's stored results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tima._files import write_text
from tima.export.card_text import licences, limits, protocols, provenance, result_tables, training, use
from tima.export.story import Story, read_story
from tima.export.targets import TARGETS, Classes
from tima.models import DualEncoder

# what the hub calls the library and the task of a folder
LIBRARY = {"hf": "transformers", "open_clip": "open_clip", "onnx": "onnx", "torch-export": "pytorch", "llava": "transformers"}
TASK, FEATURES = "zero-shot-image-classification", "image-feature-extraction"


def write_card(
    folder: Path,
    model: DualEncoder,
    targets: Sequence[str],
    classes: Classes | None,
    run: Path | None,
    weights_sha256: str,
    checks: dict[str, dict[str, float]],
    *,
    nested: bool,
) -> None:
    """Write `folder/README.md`.

    Args:
        targets: what the card is about. Several lie in folders of their names.
        run: a run folder with recipe and results, or anything else for none.
        nested: the card stands above the targets' folders, if there are several.
    """
    story = read_story(model, run, weights_sha256)
    parts = [
        f"# {story.title}",
        story.sentence,
        *use(model, targets, classes, TARGETS, checks, nested=nested and len(targets) > 1),
        *result_tables(story),
        *protocols(story),
        *training(story),
        *limits(model, story),
        *licences(story),
        *provenance(story, weights_sha256),
    ]
    write_text(folder / "README.md", f"---\n{_metadata(story, targets)}\n---\n\n" + "\n\n".join(parts) + "\n")


def _metadata(story: Story, targets: Sequence[str]) -> str:
    """The YAML between the rules, made by the hub's own library, which also knows the shape of results."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=result.dataset,
            dataset_name=result.dataset,
            metric_type="accuracy",
            metric_value=round(share, 5),
            metric_name=f"{what} (n = {result.n}, 95 % {low:.4f} to {high:.4f}; {story.label(result)})",
        )
        for result in story.results
        for what, share, (low, high) in [
            ("clean accuracy", result.clean.accuracy, result.clean.ci95),
            *((f"robust accuracy, {result.norm} {row.eps_text}", row.robust_accuracy, row.ci95) for row in result.robust),
        ]
    ]
    values: dict[str, Any] = {
        "license": "other",
        "library_name": LIBRARY[targets[0]],
        "pipeline_tag": FEATURES if list(targets) == ["llava"] else TASK,
        "tags": ["clip", "zero-shot", "adversarial-robustness", "tima", *([story.method] if story.method else [])],
    }
    if story.hub_base:
        values["base_model"] = story.hub_base
    if results:
        values |= {"model_name": story.title, "eval_results": results}
    return str(ModelCardData(**values).to_yaml()).strip()
