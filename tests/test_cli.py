"""The command line as a user meets it: every command, its files, and the errors it explains."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import build_tiny_clip, make_image_set, png, write_image_folder
from typer.testing import CliRunner

from tima.cli import app
from tima.errors import DataError, EpsError, ModelError, RecipeError

COMMANDS = ["train", "evaluate", "report", "predict", "attack", "demo", "pretrain", "methods", "data", "protocols"]
runner = CliRunner()


@pytest.fixture(scope="module")
def world(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    root = tmp_path_factory.mktemp("cli")
    build_tiny_clip(tokenizer).save_pretrained(root / "model")
    images = make_image_set(n=48, classes=8)
    for split in ("train", "test"):
        write_image_folder(images, root / "toy" / split)
    rng = np.random.default_rng(0)
    (root / "photo.png").write_bytes(png(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)))
    return root


def run(*words: object) -> str:
    result = runner.invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_help_reads_well_and_needs_no_torch() -> None:
    code = "import sys; from tima.cli import app; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    overview = run("--help")
    for command in COMMANDS:
        assert command in overview
        assert "--help" in run(command, "--help")


def test_the_defaults_that_the_help_of_train_names_are_the_recipes() -> None:
    from tima.config import TrainRecipe
    from tima.eps import format_eps

    r, text = TrainRecipe(), " ".join(run("train", "--help").replace("│", " ").split())
    for words in (
        f"{r.method} (default)",
        f"{r.model} (default)",
        f"{r.data} (embedded, default)",
        f"{format_eps(r.eps)} (default)",
    ):
        assert words in text
    for words in (f"steps; {r.steps} by", f"step; {r.batch_size} by", f"rate; {r.lr:f}".rstrip("0") + " by"):
        assert words in text


def test_a_quiet_training_is_quiet(world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "ft-clean", "--model", world / "model", "--data", world / "toy", "--steps", 1, "--batch-size", 8]
    run("train", *words, "--out", tmp_path / "run", "--quiet", "val_samples=4", "val_attack_steps=1")
    assert "Writing" not in capfd.readouterr().err, "another library's progress bar"


def test_train_evaluate_report(world: Path, tmp_path: Path) -> None:
    common = ["--quiet", "val_every=2", "val_samples=8", "val_attack_steps=1", "held_out_classes=0.25", "precision=fp32"]
    for method in ("tecoa", "tima"):
        out = run(
            "train", "--method", method, "--model", world / "model", "--data", world / "toy", "--eps", "4/255", "--steps", 2,
            "--batch-size", 8, "--out", tmp_path / method, *common,
        )  # fmt: skip
        assert "tima evaluate" in out
        words = ["--model", tmp_path / method, "--data", world / "toy", "--eps", "1/255,4/255", "--steps", 2, "--samples", 12]
        out = run("evaluate", *words, "--attack", "pgd", "--quiet")
        assert "4/255" in out
    stored = yaml.safe_load((tmp_path / "tima" / "recipe.yaml").read_text())
    assert (stored["method"], stored["eps"], stored["steps"], stored["precision"]) == ("tima", "4/255", 2, "fp32")
    result = json.loads(next((tmp_path / "tima" / "results").glob("*.json")).read_text())
    assert result["complete"] and result["n"] == 12 and result["protocol"]["name"] == "custom"
    assert [r["eps_text"] for r in result["robust"]] == ["1/255", "4/255"]
    out = run("report", tmp_path / "tecoa", tmp_path / "tima", "--out", tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text() and "page.html" in out


def test_a_missing_data_set_is_named_and_the_others_are_done(world: Path, tmp_path: Path) -> None:
    words = ["--model", world / "model", "--data", f"{world / 'toy'},nowhere", "--eps", "1/255", "--steps", 1, "--samples", 4]
    with pytest.raises(DataError, match="1 of 2 data sets"):
        run("evaluate", *words, "--out", tmp_path / "run", "--quiet")
    assert len(list((tmp_path / "run" / "results").glob("*.json"))) == 1


def test_resume_takes_the_runs_own_settings(world: Path, tmp_path: Path) -> None:
    words = [
        "--model",
        world / "model",
        "--data",
        world / "toy",
        "--steps",
        2,
        "--batch-size",
        8,
        "--out",
        tmp_path / "run",
        "--quiet",
    ]
    run("train", "--method", "ft-clean", *words, "val_samples=4", "val_attack_steps=1")
    run("train", "--resume", tmp_path / "run", "--quiet")
    with pytest.raises(RecipeError, match="own settings"):
        run("train", "--resume", tmp_path / "run", "lr=1")
    with pytest.raises(RecipeError, match=r"no run to go on with at .*nowhere"):
        run("train", "--resume", tmp_path / "nowhere")


def test_predict_shows_every_class(world: Path) -> None:
    out = run("predict", "--model", world / "model", "--classes", "a cat, a dog", world / "photo.png")
    assert "a cat" in out and "a dog" in out and "%" in out


def test_a_picture_that_cannot_be_read_is_listed_and_the_others_are_classified(world: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes((world / "photo.png").read_bytes()[:60])
    words = ["predict", "--model", str(world / "model"), "--classes", "a cat,a [dog]"]
    result = runner.invoke(app, [*words, str(tmp_path / "broken.png"), str(world / "photo.png")])
    assert str(world / "photo.png") in result.output and "a [dog]" in result.output and result.exit_code == 1
    assert isinstance(result.exception, DataError) and "1 of 2 pictures" in str(result.exception)
    assert "broken.png" in str(result.exception)


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    from PIL import Image

    from tima.cli.common import read_picture

    upright = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways: turn by 270 degrees to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.png", exif=exif)
    upright.save(tmp_path / "upright.png")
    assert read_picture(tmp_path / "phone.png", 16).equal(read_picture(tmp_path / "upright.png", 16))


def test_attack_writes_a_picture_within_eps(world: Path, tmp_path: Path) -> None:
    from PIL import Image

    from tima.data import decode

    out = run(
        "attack", "--model", world / "model", "--classes", "a cat, a dog", "--label", "a cat", "--eps", "4/255",
        world / "photo.png", "--out", tmp_path / "adv.png",
    )  # fmt: skip
    clean = decode(world / "photo.png", 16).int().permute(1, 2, 0).numpy()
    adversarial = np.array(Image.open(tmp_path / "adv.png")).astype(int)
    assert 0 < np.abs(adversarial - clean).max() <= 4
    assert "The answer" in out or "Without any attack" in out, (
        "what the random model says of the clean picture is its own affair"
    )
    assert f"{tmp_path / 'adv.png'}, {tmp_path / 'adv.compare.png'}" in out and (tmp_path / "adv.compare.png").is_file()


def test_an_answer_that_was_wrong_before_is_no_success_and_no_failure(world: Path, tmp_path: Path) -> None:
    words = [
        "attack",
        "--model",
        world / "model",
        "--classes",
        "a cat, a dog",
        world / "photo.png",
        "--out",
        tmp_path / "a.png",
    ]
    out = run("predict", "--model", world / "model", "--classes", "a cat, a dog", "--top", 1, world / "photo.png")
    said = "a cat" if "a cat" in out else "a dog"
    other = {"a cat": "a dog", "a dog": "a cat"}[said]
    assert f"Without any attack the model says {said}" in run(*words, "--label", other)
    assert f"was {said} before the attack" in run(*words, "--target", said)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["attack", "--classes", "cat,dog", "--eps", "4"], EpsError, "'4/255'"),
        (["attack", "--classes", "cat,dog", "--label", "cow"], DataError, "none of the classes"),
        (["predict", "--classes", "cat,cat"], DataError, "given twice"),
        (["attack", "--classes", "cat,dog", "--out", "photo.jpg"], DataError, r"no \.png"),
        (["attack", "--classes", "cat,dog", "--label", "cat", "--target", "cat"], DataError, "are both 'cat'"),
        (["predict", "--classes", " , "], DataError, "empty"),
        (["predict", "--classes", "animals.txt"], DataError, r"animals\.txt does not exist"),
    ],
)
def test_bad_words_are_explained(world: Path, words: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(*words, "--model", world / "model", world / "photo.png")


def test_bad_files_are_explained(world: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for path, message in ((tmp_path / "text.png", "cannot be read"), (tmp_path / "none.png", "does not exist")):
        with pytest.raises(DataError, match=message):
            run("predict", "--model", world / "model", "--classes", "cat,dog", path)
    with pytest.raises(DataError, match="is a folder"):
        run("predict", "--model", world / "model", "--classes", "cat,dog", tmp_path)
    (tmp_path / "latin.txt").write_bytes("Löwe\nTür\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8"):
        run("predict", "--model", world / "model", "--classes", tmp_path / "latin.txt", world / "photo.png")
    with pytest.raises(ModelError, match=r"no model 'nanno'.*embedded model is 'nano'"):
        run("predict", "--model", "nanno", "--classes", "cat,dog", world / "photo.png")
    with pytest.raises(ModelError, match="does not exist"):
        run("predict", "--model", tmp_path / "nothing", "--classes", "cat,dog", world / "photo.png")
    with pytest.raises(RecipeError, match="--out"):
        run("train", "--method", "tecoa")


def test_errors_end_in_one_line_and_status_one() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from tima.cli import main; main()", "attack", "x.png", "--classes", "a,b", "--eps", "4"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "error:" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied", "/there/x.png"), "Permission denied: /there/x.png. Choose a folder"),
        (OSError(28, "No space left on device"), "No space left on device. Make room"),
    ],
)
def test_what_the_disk_refuses_ends_without_a_traceback(
    error: OSError, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import tima.cli

    def refused() -> None:
        raise error

    monkeypatch.setattr(tima.cli, "app", refused)
    with pytest.raises(SystemExit) as end:
        tima.cli.main()
    assert end.value.code == 1 and words in capsys.readouterr().err


def test_an_error_that_is_not_the_disks_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import tima.cli

    def refused() -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(tima.cli, "app", refused)
    with pytest.raises(ConnectionRefusedError):
        tima.cli.main()


def test_lists() -> None:
    listed = run("methods")
    assert all(name in listed for name in ("tima", "tima-v1", "tecoa", "ft-clean"))
    assert listed.index("tima") < listed.index("tecoa") and "L =" not in listed, "the subject first, and in words"
    assert "pgd@1" in run("protocols")
    assert "cifar10" in run("data")
