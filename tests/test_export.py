"""Exports that transformers loads: numbers equal to ours, nothing left of a failure, the card, the command, the upload."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import build_tiny_clip
from exported import make_run, tiny_siglip, tiny_two_tower
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from tima._files import sha256_file
from tima.data import decode
from tima.data.in_memory import Encoded
from tima.errors import ExportError, ModelError, TimaError
from tima.export import TARGETS, export_model, push_folder
from tima.export import hugging_face as hf_target
from tima.export.probe import compare, make_probe
from tima.export.targets import Target
from tima.models import ZeroShotClassifier, load_model
from tima.models.hugging_face import HuggingFaceEncoder
from tima.results import load_results

NAMES = ["cat", "dog", "sailing boat"]
FAMILIES = {"clip": build_tiny_clip, "siglip": tiny_siglip, "two towers": tiny_two_tower}


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def run_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "robust-cat"
    make_run(folder, tokenizer)
    return folder


# transformers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_the_pipeline_answers_as_we_do(tokenizer: Any, tmp_path: Path, kind: str) -> None:
    from transformers import pipeline

    model = FAMILIES[kind](tokenizer)
    folder = export_model(model, "hf", tmp_path / "out")
    photo = picture(61, 37)  # neither side is the model's
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    answers = classify(photo, candidate_labels=NAMES, hypothesis_template="a picture of a {}.")
    pixels = decode(Encoded([photo])(0), model.image_size)[None].float() / 255
    with torch.no_grad():
        logits = ZeroShotClassifier(model, NAMES, ["a picture of a {c}."])(pixels)[0]
    wanted = logits.sigmoid() if kind == "siglip" else logits.softmax(-1)
    assert wanted.max() - wanted.min() > 1e-4  # a model that says the same of everything would pass
    found = {answer["label"]: answer["score"] for answer in answers}
    torch.testing.assert_close(torch.tensor([found[name] for name in NAMES]), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_from_pretrained_and_the_processor_give_our_logits(tokenizer: Any, tmp_path: Path, kind: str) -> None:
    import transformers

    model = FAMILIES[kind](tokenizer)
    folder = export_model(model, "hf", tmp_path / "out")
    loaded = getattr(transformers, type(model.backbone).__name__).from_pretrained(folder).eval()
    images = transformers.AutoImageProcessor.from_pretrained(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    photos = [picture(40, 31, 1), picture(16, 90, 2), picture(16, 16, 3)]
    made = images(images=photos, return_tensors="pt")["pixel_values"]
    pixels = torch.stack([decode(Encoded(photos)(i), 16) for i in range(3)]).float() / 255
    torch.testing.assert_close(made, (pixels - model.mean_C11) / model.std_C11, atol=1e-6, rtol=0)
    padding = {"padding": "max_length", "max_length": 64} if kind == "siglip" else {"padding": True}
    texts = [f"a photo of a {name}." for name in NAMES]
    with torch.no_grad():
        logits = loaded(pixel_values=made, **tokens(texts, return_tensors="pt", **padding)).logits_per_image
        wanted = ZeroShotClassifier(model, NAMES)(pixels)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    assert float(wanted.std()) > 0.05


def test_the_folder_is_a_model_of_ours_too(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    first = export_model(tiny_clip, "hf", tmp_path / "first")
    second = export_model(first, "hf", tmp_path / "second")
    hashes = [json.loads((f / "tima_export.json").read_text())["files"]["model.safetensors"] for f in (first, second)]
    assert hashes[0] == hashes[1] == sha256_file(second / "model.safetensors")


# the image tower --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(FAMILIES))
def test_the_tower_gives_the_hidden_states_that_llava_reads(tokenizer: Any, tmp_path: Path, kind: str) -> None:
    from tima.export.llava import load_tower

    model = FAMILIES[kind](tokenizer)
    tower = load_tower(export_model(model, "llava", tmp_path / "out"))
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        found = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
        wanted = model.backbone.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    assert found.shape == (2, 4 + (kind != "siglip"), 32)  # four patches, and a class token where there is one
    torch.testing.assert_close(found, wanted)


def test_a_language_model_sees_through_the_tower(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    from transformers import CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    folder = export_model(tiny_clip, "llava", tmp_path / "out")
    tower = CLIPVisionModel.from_pretrained(folder)
    text = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, vocab_size=64
    )
    llava = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=tower.config, text_config=text, vision_feature_layer=-2)
    ).eval()
    llava.model.vision_tower.load_state_dict(tower.state_dict())
    pixels = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        seen = llava.model.get_image_features(
            pixel_values=pixels, vision_feature_layer=-2, vision_feature_select_strategy="default"
        )
        seen = torch.cat(list(getattr(seen, "pooler_output", seen))).flatten(0, -2)
        hidden = tiny_clip.backbone.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][0, 1:]
        wanted = llava.model.multi_modal_projector(hidden)
    torch.testing.assert_close(seen, wanted)


def test_the_towers_file_has_the_names_of_both_generations(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = export_model(tiny_clip, "llava", tmp_path / "out")
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert all(name.startswith("vision_model.") for name in file.keys())  # noqa: SIM118 (no mapping)


# what must not leave ----------------------------------------------------------------------------------------------


def test_a_difference_leaves_nothing_and_says_how_large(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_other(model: HuggingFaceEncoder, folder: Path, classes: Any = None) -> None:
        other = build_tiny_clip(model.tokenizer)
        with torch.no_grad():
            other.backbone.logit_scale += 0.01  # a hundredth of every logit
        hf_target.write(other, folder)

    monkeypatch.setitem(TARGETS, "hf", Target("", write_other, hf_target.check, hf_target.usage))
    worst = make_probe(tiny_clip).logits_BC.abs().max().item() * (np.exp(0.01) - 1)
    with pytest.raises(ExportError, match=r"Export of 'tiny' to hf failed. The logits differ from ours by (\d\.\d+)") as error:
        export_model(tiny_clip, "hf", tmp_path / "out")
    assert f"{worst:.3g}" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_of_the_second_target_keeps_nothing_of_the_first(
    tiny_clip: HuggingFaceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> dict[str, float]:
        raise KeyError("weights")

    monkeypatch.setitem(TARGETS, "llava", Target("", TARGETS["llava"].write, broken, TARGETS["llava"].usage))
    with pytest.raises(ExportError, match="to llava failed: what was written cannot be loaded or run"):
        export_model(tiny_clip, ["hf", "llava"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["hf", "llava", "open_clip"])
def test_what_a_format_has_no_place_for_is_refused(tiny_clip: HuggingFaceEncoder, tmp_path: Path, target: str) -> None:
    from tima.models.visual_prompt import PaddingPrompt

    tiny_clip.prompt = PaddingPrompt(2, 16)
    with pytest.raises(ModelError, match=f"cannot be exported as {target}: it also holds prompt"):
        export_model(tiny_clip, target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_hooks_and_overridden_encoders_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    hooked = build_tiny_clip(tokenizer)
    with torch.no_grad():  # the library's own hooks, which stay behind, are none
        hooked.backbone.vision_model(pixel_values=torch.rand(1, 3, 16, 16), output_hidden_states=True)
    export_model(hooked, "hf", tmp_path / "looked-into")
    hooked.backbone.vision_model.register_forward_pre_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"a hook on backbone\.vision_model"):
        export_model(hooked, "hf", tmp_path / "out")

    class Defended(HuggingFaceEncoder):
        pass

    defended = build_tiny_clip(tokenizer)
    defended.__class__ = Defended
    with pytest.raises(ModelError, match="what the class Defended adds"):
        export_model(defended, "hf", tmp_path / "out")
    adapted = build_tiny_clip(tokenizer)
    adapted.backbone.visual_projection.lora_A = nn.Linear(2, 2)
    with pytest.raises(ModelError, match=r"visual_projection\.lora_A\.weight are not merged"):
        export_model(adapted, "hf", tmp_path / "out")


def test_a_model_of_nan_is_refused(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_clip.backbone.visual_projection.weight[0, 0] = torch.nan
    with pytest.raises(ExportError, match="NaN"):
        export_model(tiny_clip, "hf", tmp_path / "out")


def test_compare_fails_on_shapes_and_nan() -> None:
    assert compare("x", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 1) == 0.5
    with pytest.raises(ExportError, match="have the shape"):
        compare("x", torch.zeros(2), torch.zeros(3), 1)
    with pytest.raises(ExportError, match="differ"):
        compare("x", torch.tensor([torch.nan]), torch.zeros(1), 1)


def test_the_model_is_as_it_was(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    tiny_clip.train()
    tiny_clip.backbone.logit_scale.requires_grad_(True)
    before = {name: value.clone() for name, value in tiny_clip.state_dict().items()}
    export_model(tiny_clip, "hf", tmp_path / "out")
    assert tiny_clip.training and tiny_clip.backbone.logit_scale.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in tiny_clip.state_dict().items())


# where it goes ----------------------------------------------------------------------------------------------------


def test_only_an_export_is_replaced_and_only_when_asked(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    out = export_model(tiny_clip, "llava", tmp_path / "out")
    with pytest.raises(TimaError, match="is there already"):
        export_model(tiny_clip, "hf", out)
    assert not (out / "tokenizer.json").exists()
    export_model(tiny_clip, "hf", out, force=True)
    assert (out / "tokenizer.json").is_file()
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter-1.tex").write_text("so far")
    with pytest.raises(TimaError, match="was not written by an export"):
        export_model(tiny_clip, "hf", precious, force=True)
    assert (precious / "chapter-1.tex").read_text() == "so far"


def test_unknown_targets_are_named(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no export 'tflite'\. Known are: hf, open_clip, onnx, torch-export, llava"):
        export_model(tiny_clip, ["hf", "tflite"], tmp_path / "out")
    with pytest.raises(ModelError, match="Known are"):
        export_model(tiny_clip, [], tmp_path / "out")


# the card ---------------------------------------------------------------------------------------------------------


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, metadata, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_the_card_tells_the_runs_own_numbers(run_folder: Path, tmp_path: Path) -> None:
    folder = export_model(run_folder, ["hf", "llava"], tmp_path / "out")
    metadata, text = card_of(folder)
    result = load_results(run_folder)[0]
    assert metadata["base_model"] == "openai/clip-vit-base-patch32" and metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "zero-shot-image-classification" and "tecoa" in metadata["tags"]
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    assert [m["value"] for m in metrics] == [
        round(v, 5) for v in (result.clean.accuracy, *(r.robust_accuracy for r in result.robust))
    ]
    low, high = result.robust[1].ci95
    assert f"n = 12, 95 % {low:.4f} to {high:.4f}" in metrics[2]["name"] and "l_inf 4/255" in metrics[2]["name"]
    cell = f"{100 * result.robust[1].robust_accuracy:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    assert (
        cell in text
        and "| toy | 12 |" in text
        and "protocol custom@1" in text.lower()
        and "tuned with TeCoA at eps 2/255" in text
    )
    manifest = json.loads((folder / "tima_export.json").read_text())
    assert result.checkpoint_sha256 == manifest["weights_sha256"] and manifest["weights_sha256"] in text and "ab" * 32 in text
    assert manifest["files"]["hf/model.safetensors"] == sha256_file(folder / "hf" / "model.safetensors")
    assert {"README.md", "hf/README.md", "llava/README.md"} <= set(manifest["files"])
    assert card_of(folder / "llava")[0]["pipeline_tag"] == "image-feature-extraction"
    assert 'model="PATH/hf"' in text and 'model="PATH"' in card_of(folder / "hf")[1]
    assert str(run_folder.parent) not in text  # nobody's disk


def test_results_of_other_weights_are_left_out(run_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    other = build_tiny_clip(tokenizer, seed=1)
    metadata, text = card_of(export_model(other, "hf", tmp_path / "out", run=run_folder))
    assert "model-index" not in metadata and "was measured on other weights" in text
    # nor is what the recipe says: these weights were not tuned by it
    assert "not tuned by it" in text and "TeCoA" not in text and "## Training" not in text and "tecoa" not in metadata["tags"]
    assert "the recipe of robust-cat made other weights" in text
    bare = card_of(export_model(other, "hf", tmp_path / "bare"))[1]
    assert "not tuned by it" in bare and "None were measured on these weights" in bare and "## Training" not in bare


def test_nobodys_disk_is_on_the_card(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    from tima.config import TrainRecipe, dump

    run, secret = tmp_path / "run", tmp_path / "home-of-ada"
    tiny_clip.save_pretrained(run / "model")
    (run / "recipe.yaml").write_text(dump(TrainRecipe(model=str(secret / "start"), data=f"{secret}/photos")))
    folder = export_model(run, "hf", tmp_path / "out")
    assert "home-of-ada" not in (folder / "README.md").read_text() and str(tmp_path) not in (folder / "README.md").read_text()
    assert "`start`" in (folder / "README.md").read_text() and "| data | photos |" in (folder / "README.md").read_text()
    assert str(tmp_path) not in (folder / "tima_export.json").read_text()


def test_the_card_names_what_was_added_to_the_method(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    from tima.config import TrainRecipe, dump

    run = tmp_path / "run"
    tiny_clip.save_pretrained(run / "model")
    (run / "recipe.yaml").write_text(dump(TrainRecipe(method="tima", method_config={"w_feature": 0.01})))
    text = card_of(export_model(run, "hf", tmp_path / "out"))[1]
    assert "tuned with TIMA + features at eps" in text and "| method config | w_feature 0.01 |" in text
    model = load_model(run)  # the same weights from elsewhere are still that run's
    assert "TIMA + features" in card_of(export_model(model, "hf", tmp_path / "again", run=run))[1]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("tiny-imagenet", "`tiny-imagenet`; licence: none stated; pictures from ImageNet, for non-commercial research."),
        ("wds:/data/wds_vtab-pets:train", "`pets`; licence: CC BY-SA 4.0."),
        ("hf:uoft-cs/cifar100", "`cifar100`; licence: none stated; cite Krizhevsky 2009."),
        ("/home/ada/pictures", "`pictures`; licence: not known to tima, state it before you publish."),
    ],
)
def test_the_card_states_the_licence_of_the_training_set(data: str, line: str) -> None:
    from tima.export.card_text import licences
    from tima.export.story import Story

    assert f"- Training data: {line}" in "\n".join(licences(Story("x", "tima", "nano", recipe={"data": data})))


def test_two_protocols_of_one_name_are_told_apart(run_folder: Path) -> None:
    from tima.export.card_text import protocols, result_tables
    from tima.export.story import Story

    first = load_results(run_folder)[0]
    second = first.model_copy(update={"dataset": "far", "protocol": {**first.protocol, "samples": 7, "sha256": "cd" * 32}})
    story = Story("x", "tecoa", "nano", results=[first, second])
    assert story.label(first) != story.label(second) and story.label(second).endswith("(cdcdcdcd)")
    listed = "\n".join(protocols(story))
    assert "samples 12" in listed and "samples 7" in listed
    assert sum(line.startswith("| data |") for line in "\n".join(result_tables(story)).splitlines()) == 2


def test_suspicious_numbers_are_marked(run_folder: Path) -> None:
    from tima.export.card_text import result_tables
    from tima.export.story import Story
    from tima.results import Health

    result = load_results(run_folder)[0]
    result.robust[1].health = Health(verdict="suspicious", reasons=["no gradient"])
    text = "\n".join(result_tables(Story("x", "tecoa", "nano", results=[result])))
    row = next(line for line in text.splitlines() if line.startswith("| toy"))
    assert row.count("!") == 1 and row.endswith("! |") and "toy at 4/255" in text and "not looked at for 1 of the 2" in text


# the command and the hub ------------------------------------------------------------------------------------------


class FakeHub:
    """The four calls of `HfApi` that are used, on a dictionary."""

    def __init__(self, repos: dict[str, list[str]] | None = None) -> None:
        self.repos, self.private = repos or {}, {}  # type: ignore[var-annotated]

    def repo_exists(self, repo_id: str) -> bool:
        return repo_id in self.repos

    def list_repo_files(self, repo_id: str) -> list[str]:
        return self.repos[repo_id]

    def create_repo(self, repo_id: str, *, private: bool) -> None:
        self.repos[repo_id], self.private[repo_id] = [".gitattributes"], private

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        self.repos[repo_id] += sorted(p.name for p in Path(folder_path).iterdir())
        self.message = commit_message


def test_push_makes_a_private_repository_and_adds_to_none_unasked(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    folder = export_model(tiny_clip, "hf", tmp_path / "out")
    hub = FakeHub()
    assert push_folder(folder, "me/model", api=hub) == "https://huggingface.co/me/model"
    assert hub.private["me/model"] and {"README.md", "model.safetensors", "tima_export.json"} <= set(hub.repos["me/model"])
    assert json.loads((folder / "tima_export.json").read_text())["weights_sha256"][:12] in hub.message
    with pytest.raises(TimaError, match=r"me/model holds files already \(README.md"):
        push_folder(folder, "me/model", api=hub)
    push_folder(folder, "me/model", force=True, api=hub)
    assert hub.repos["me/model"].count("README.md") == 2


def test_push_says_what_the_hub_said(tiny_clip: HuggingFaceEncoder, tmp_path: Path) -> None:
    folder = export_model(tiny_clip, "llava", tmp_path / "out")

    class Closed(FakeHub):
        def repo_exists(self, repo_id: str) -> bool:
            raise OSError("401 Unauthorized")

    with pytest.raises(TimaError, match=r"me/model cannot be written: 401 Unauthorized.*logged in"):
        push_folder(folder, "me/model", api=Closed())
    with pytest.raises(TimaError, match="names no repository"):
        push_folder(folder, "model", api=FakeHub())
    with pytest.raises(TimaError, match="no finished export"):
        push_folder(tmp_path, "me/model", api=FakeHub())


def test_the_command_exports_and_uploads(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    import typer

    from tima.cli import export as command

    hub = FakeHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    app = typer.Typer()
    command.add(app)
    out = tmp_path / "out"
    words = ["--model", str(run_folder), "--to", "hf, llava", "--out", str(out), "--push", "me/two", "--public"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "hf: loading it again and comparing" in result.output and "Uploaded: https://huggingface.co/me/two" in result.output
    assert (out / "hf" / "config.json").is_file() and (out / "llava" / "config.json").is_file() and not hub.private["me/two"]
    again = CliRunner().invoke(app, words[:6])
    assert isinstance(again.exception, TimaError) and "is there already" in str(again.exception)
