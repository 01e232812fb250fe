"""Durations as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskstream.durations import EXPECTED, LONGEST_S, parse_duration

GOOD = {5: 5.0, 0.5: 0.5, "90": 90.0, "90s": 90.0, "1.5m": 90.0, "2h": 7200.0, " 7 d ": 604800.0, "1w": 604800.0}
BAD = [
    "",
    "h",
    "2x",
    "2hh",
    "-2h",
    "0",
    "0h",
    0,
    -1,
    True,
    None,
    math.inf,
    math.nan,
    1e300,
    10**400,
    "9" * 400,
    "101w w",
]


@pytest.mark.parametrize(("value", "seconds"), GOOD.items())
def test_a_duration_in_seconds(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", [*BAD, "5300w", [5], {}])
def test_what_is_none_says_what_was_expected(value: object) -> None:
    with pytest.raises(ValueError, match="number of seconds above 0") as raised:
        parse_duration(value)
    assert str(raised.value) == EXPECTED


@given(st.one_of(st.text(), st.floats(), st.integers()))
def test_anything_is_a_sane_duration_or_none(value: object) -> None:
    try:
        assert 0 < parse_duration(value) <= LONGEST_S
    except ValueError as error:
        assert str(error) == EXPECTED
