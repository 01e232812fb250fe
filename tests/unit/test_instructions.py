"""What is made of instruction counts: bounds by the recorded ones, and what a path that takes more is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace

import pytest
from helpers import ROOT

sys.path.append(str(ROOT))  # last, so that nothing of the checkout stands before what is installed

from benchmarks import counted, instructions
from benchmarks.instructions import Record, bounds, problems

RECORD = Record("3.11.7", "x86_64", {"redis": "8.1.0"}, {"reference": 1_000, "delay()": 10_000, "decode": 2_000})


def counted_as(counts: Mapping[str, int], python: str = "3.11.7") -> Record:
    return replace(RECORD, counts={**RECORD.counts, **counts}, python=python)


def test_a_path_may_take_a_tenth_more_than_recorded() -> None:
    assert bounds(RECORD, RECORD) == {"delay()": 11_000, "decode": 2_200}
    assert problems(RECORD, counted_as({"delay()": 11_000, "decode": 1})) == []


def test_a_path_that_takes_more_is_named_with_what_to_do() -> None:
    now = replace(counted_as({"delay()": 11_001}), packages={"redis": "8.2.0"})
    said = problems(RECORD, now)
    assert said[0] == "delay(): 11,001 instructions, +10.0% against 10,000 recorded, at most 11,000 may be"
    assert "8.1.0 → 8.2.0" in said[1] and "--record" in said[2]


@pytest.mark.parametrize("python", ["3.12.1", "3.11.7"])
def test_another_build_of_python_is_scaled_by_the_reference_and_allowed_more(python: str) -> None:
    now = counted_as({"reference": 1_500, "delay()": 19_500}, python)
    assert bounds(RECORD, now)["delay()"] == 19_500
    assert problems(RECORD, now) == []
    assert problems(RECORD, counted_as({"reference": 1_500, "delay()": 19_501}, python))


def test_a_path_that_was_never_recorded_is_a_problem() -> None:
    assert "new path: " in problems(RECORD, counted_as({"new path": 1}))[0]


def test_every_counted_path_is_recorded() -> None:
    recorded = Record(**json.loads(instructions.RECORDED.read_text()))
    assert list(recorded.counts) == list(counted.PATHS)
