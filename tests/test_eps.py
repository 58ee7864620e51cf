"""Reading and writing perturbation sizes."""

import math
import random

import pytest
import torch

from tima.eps import format_eps, parse_eps, parse_eps_list
from tima.errors import EpsError, TimaError


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("4/255", 4 / 255),
        (" 4 / 255 ", 4 / 255),
        ("0.5/255", 0.5 / 255),
        ("127.5/255", 0.5),
        ("1/256", 1 / 256),
        ("0.0157", 0.0157),
        (".5", 0.5),
        ("1e-3", 0.001),
        (0.25, 0.25),
        (0, 0.0),
        ("0/255", 0.0),
    ],
)
def test_reads(text: str | float, eps: float) -> None:
    assert parse_eps(text) == eps


@pytest.mark.parametrize(
    "text", ["", "four", "4/", "/255", "4/0", "4/255/1", "nan", "nan/255", "-1/255", -0.1, "4%", True, "4,255"]
)
def test_refuses_what_is_no_size(text: str | float) -> None:
    with pytest.raises(EpsError, match=r"eps"):
        parse_eps(text)


@pytest.mark.parametrize("text", ["4", 8, 1, "255", 16.0])
def test_a_number_of_grey_levels_is_answered_with_the_fraction_to_write(text: str | float) -> None:
    with pytest.raises(EpsError) as caught:
        parse_eps(text)
    assert f"write '{text}/255'" in str(caught.value)


@pytest.mark.parametrize("text", ["255/255", "300/255", "inf", "1e999"])
def test_advice_that_would_be_nonsense_is_not_given(text: str) -> None:
    with pytest.raises(EpsError) as caught:
        parse_eps(text)
    assert f"{text}/255" not in str(caught.value)


def test_minus_zero_is_zero() -> None:
    assert math.copysign(1, parse_eps("-0.0")) == 1


def test_errors_are_for_people_and_are_value_errors() -> None:
    with pytest.raises(TimaError):
        parse_eps("x")
    with pytest.raises(ValueError):
        parse_eps("x")


def test_lists_are_sorted_without_repeats() -> None:
    assert parse_eps_list("4/255,1/255,4/255") == [1 / 255, 4 / 255]
    assert parse_eps_list([0.5, "1/255"]) == [1 / 255, 0.5]
    assert parse_eps_list("2/255,") == [2 / 255]
    assert parse_eps_list(0.25) == [0.25]


@pytest.mark.parametrize("empty", ["", " , ", []])
def test_an_empty_list_is_an_error(empty: str | list[float]) -> None:
    with pytest.raises(EpsError, match="No eps"):
        parse_eps_list(empty)


@pytest.mark.parametrize(
    ("eps", "text"), [(4 / 255, "4/255"), (0.5 / 255, "0.5/255"), (0.0, "0/255"), (0.0157, "0.0157"), (0.5, "127.5/255")]
)
def test_writes(eps: float, text: str) -> None:
    assert format_eps(eps) == text


def test_a_tiny_eps_is_not_written_as_zero() -> None:
    assert format_eps(1e-9) == "1e-09"


def test_float32_values_are_recognised() -> None:
    for level in (1, 2, 4, 8, 16, 32, 127, 254):
        assert format_eps(float(torch.tensor(level / 255, dtype=torch.float32))) == f"{level}/255"


def test_what_is_written_reads_back() -> None:
    rng = random.Random(0)
    values = [rng.random() for _ in range(500)] + [10 ** rng.uniform(-8, -0.001) for _ in range(500)]
    values += [level / 255 for level in range(255)] + [level / 2550 for level in range(2550)]
    for eps in values:
        assert parse_eps(format_eps(eps)) == pytest.approx(eps, rel=1e-5)


def test_order_survives_writing() -> None:
    rng = random.Random(1)
    values = sorted({round(rng.random(), 4) for _ in range(500)})
    read = [parse_eps(format_eps(eps)) for eps in values]
    assert read == sorted(read)
    assert len({format_eps(eps) for eps in values}) == len(values)
