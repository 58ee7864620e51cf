"""Protocols: what is shipped, what is refused, and when two numbers may be compared."""

import subprocess
import sys
from pathlib import Path

import pytest

from tima.attacks import find_stages
from tima.errors import RecipeError
from tima.protocols import Protocol, eps_text, known_protocols, load_protocol


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
        ("pixel_grid", "data set", "model input"),
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
    with pytest.raises(RecipeError, match="demo, pgd"):
        load_protocol("nothing")


def test_protocols_and_results_need_no_torch() -> None:
    code = "import sys, tima.protocols, tima.results, tima.stats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


def test_step_size_is_written_like_eps() -> None:
    changed = load_protocol("pgd").override(attack_params={"steps": 5, "step_size": "1/255"})
    assert changed.attack_params["step_size"] == 1 / 255
    with pytest.raises(RecipeError, match="'2/255'"):
        load_protocol("pgd").override(attack_params={"step_size": "2"})
