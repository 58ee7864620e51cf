"""Protocols: what is shipped, what is refused, and when two numbers may be compared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tima.attacks import find_stages
from tima.errors import RecipeError
from tima.protocols import Protocol, check_protocol, eps_text, known_protocols, load_protocol, protocols_folder
from tima.protocols.schema import write_schemas


@pytest.mark.parametrize(("name", "steps", "samples"), [("pgd", 20, 1000), ("demo", 10, 250)])
def test_shipped_protocols(name: str, steps: int, samples: int) -> None:
    protocol = load_protocol(name)
    assert (protocol.name, protocol.samples, protocol.attack_params["steps"]) == (name, samples, steps)
    assert protocol.eps == [1 / 255, 2 / 255, 4 / 255, 8 / 255]
    assert protocol.content()["eps"] == ["1/255", "2/255", "4/255", "8/255"]
    assert [stage.name for stage in find_stages(protocol.attack, protocol.attack_params)] == ["pgd"]
    assert name in known_protocols()


def test_override_names_the_change_custom_and_keeps_the_name_when_there_is_none() -> None:
    protocol = load_protocol("pgd")
    assert protocol.override(eps="8/255, 4/255,2/255,1/255", samples=1000) is protocol
    changed = protocol.override(eps=["4/255"], samples=None)
    assert (changed.name, changed.eps, changed.samples) == ("custom", [4 / 255], None)
    assert "eps, samples" in changed.about
    assert changed.sha256 != protocol.sha256
    assert protocol.override(attack="fgsm").attack_params == {}


def test_hash_depends_on_what_moves_numbers_only() -> None:
    protocol = load_protocol("pgd")
    assert protocol.model_copy(update={"about": "other words"}).sha256 == protocol.sha256
    assert Protocol(**protocol.content()).sha256 == protocol.sha256
    hashes = {protocol.override(**{key: value}).sha256 for key, value in (("seed", 1), ("samples", 7), ("precision", "bf16"))}
    assert len(hashes | {protocol.sha256}) == 4


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("eps", "4", "4/255"),
        ("eps", [0, "1/255"], "clean accuracy is measured in any case"),
        ("eps", [], "at least 1 item"),
        ("norm", "l_7", "l_inf"),
        ("samples", 0, "greater than or equal to 1"),
        ("pixel_grid", "screen", "model input"),
        ("templates", "last", "data set"),
        ("templates", ["a photo"], "{c}"),
        ("health_probe", -1, "greater than or equal to 0"),
        ("nonsense", 1, "there is no such setting"),
    ],
)
def test_bad_fields_are_refused_with_the_reason(field: str, value: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_protocol("pgd").override(**{field: value})


def test_l2_radius_may_exceed_one() -> None:
    assert load_protocol("pgd").override(norm="l_2", eps="0.5,3").eps == [0.5, 3.0]
    with pytest.raises(RecipeError, match="negative"):
        load_protocol("pgd").override(norm="l_2", eps="-1")


@pytest.mark.parametrize("eps", [4 / 255, 0.5 / 255, 0.0157, 0.123456789012, 1e-5, 3.0])
def test_eps_text_loses_nothing(eps: float) -> None:
    from fractions import Fraction

    assert float(Fraction(eps_text(eps))) == eps


def test_files(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\nversion: 3\nattack: pgd\neps: 2/255\n")
    assert str(load_protocol(mine)) == "mine@3"
    for text, message in (("a: [", "not valid YAML"), ("- 1", "holds no protocol"), ("name: x", "version")):
        mine.write_text(text)
        with pytest.raises(RecipeError, match=message):
            load_protocol(mine)
    with pytest.raises(RecipeError, match=", ".join(known_protocols())):
        load_protocol("nothing")


def test_what_is_reported_beside_a_number_does_not_change_the_protocol() -> None:
    protocol = load_protocol("pgd")
    more = protocol.override(health_probe=0, adversarial_8bit=True)
    assert (more.name, more.health_probe, more.adversarial_8bit) == ("pgd", 0, True)
    assert more.sha256 == protocol.sha256
    assert protocol.override(health_probe=0, seed=3).about == "pgd version 1 with another seed"
    # the numbers published with these protocols stay comparable: their hashes before the new fields were there
    assert load_protocol("demo").sha256.startswith("a14943808d25de6f")


@pytest.mark.parametrize(
    ("templates", "prompts"), [("data set", ["{c}", "a {c}"]), ("first", ["{c}"]), (["my {c}"], ["my {c}"])]
)
def test_templates(templates: object, prompts: list[str]) -> None:
    assert load_protocol("pgd").override(templates=templates).prompts(("{c}", "a {c}")) == prompts


def test_the_three_families() -> None:
    tecoa, fare, standard = (load_protocol(name) for name in ("tecoa-pgd", "fare-aa", "standard"))
    assert (tecoa.templates, tecoa.pixel_grid, tecoa.samples) == ("first", "data set", None)
    assert tecoa.attack_params == {"steps": 100, "step_size": 1 / 255, "restarts": 1, "loss": "ce"}
    assert (fare.templates, fare.pixel_grid, fare.samples, fare.attack) == ("data set", "data set", 1000, "autoattack")
    assert fare.eps == [2 / 255, 4 / 255]
    assert (standard.pixel_grid, standard.precision, standard.samples) == ("model input", "fp32", 1000)
    assert standard.eps == [1 / 255, 2 / 255, 4 / 255, 8 / 255] and standard.adversarial_8bit
    assert len({p.sha256 for p in (tecoa, fare, standard)}) == 3


def test_check_reads_a_file_and_says_what_is_wrong(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    good = "name: mine\nversion: 1\nattack: pgd\neps: 2/255\n"
    mine.write_text(good)
    assert check_protocol(mine) == load_protocol(mine)
    for text, message in (
        (good.replace("pgd", "hope"), "no attack 'hope'"),
        (good + "attack_params: {step: 3}\n", "no parameter step"),
        (good.replace("mine", "pgd"), "name of its own"),
        (good.replace("2/255", "2"), "'2/255'"),
        (good + "sample: 3\n", "no such setting"),
    ):
        mine.write_text(text)
        with pytest.raises(RecipeError, match=message):
            check_protocol(mine)
    with pytest.raises(RecipeError, match="is not there"):
        check_protocol("pgd")


def test_the_name_of_a_shipped_protocol_is_nobody_elses(tmp_path: Path) -> None:
    """Its tables would say `standard` above the numbers of a weak attack."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: standard\nversion: 1\nattack: fgsm\neps: 2/255\n")
    with pytest.raises(RecipeError, match="'standard' is the name of a protocol that comes with the package"):
        load_protocol(mine)
    text = (protocols_folder() / "standard.yaml").read_text()
    mine.write_text(text.replace("adversarial_8bit: true", "adversarial_8bit: false"))  # moves no number
    assert load_protocol(mine).sha256 == load_protocol("standard").sha256


def test_the_schemas_in_the_docs_are_those_of_the_code(tmp_path: Path) -> None:
    docs = Path(__file__).resolve().parents[1] / "docs" / "schemas"
    for written in write_schemas(tmp_path):
        assert (docs / written.name).read_text() == written.read_text(), "run: tima protocols --schemas docs/schemas"
    schema = json.loads((docs / "protocol.schema.json").read_text())
    assert set(schema["properties"]) == set(Protocol.model_fields)
    assert set(schema["required"]) == {"name", "version", "attack", "eps"}
    assert schema["additionalProperties"] is False


def test_protocols_and_results_need_no_torch() -> None:
    code = "import sys, tima.protocols, tima.results, tima.stats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


def test_step_size_is_written_like_eps() -> None:
    changed = load_protocol("pgd").override(attack_params={"steps": 5, "step_size": "1/255"})
    assert changed.attack_params["step_size"] == 1 / 255
    with pytest.raises(RecipeError, match="'2/255'"):
        load_protocol("pgd").override(attack_params={"step_size": "2"})
