"""When a failed message is tried again."""

from __future__ import annotations

import random

import pytest

from taskstream.retry import backoff_delay


def never(low: float, high: float) -> float:
    raise AssertionError("no randomness was asked for")


@pytest.mark.parametrize(("retries", "expected"), [(0, 1.5), (1, 3.0), (2, 6.0), (5, 20.0), (10**6, 20.0)])
def test_doubles_up_to_the_cap(retries: int, expected: float) -> None:
    assert backoff_delay(retries, base=1.5, maximum=20.0, jitter=False, uniform=never) == expected


def test_the_cap_holds_for_the_first_too() -> None:
    assert backoff_delay(0, base=60.0, maximum=5.0, jitter=False, uniform=never) == 5.0
    assert backoff_delay(3, base=0.0, maximum=5.0, jitter=False, uniform=never) == 0.0


def test_full_jitter_is_anywhere_below() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.25

    assert backoff_delay(2, base=1.0, maximum=600.0, jitter=True, uniform=uniform) == 0.25
    assert asked == [(0.0, 4.0)]
    # Any of it, the shortest and the longest too, and none more often: of 4,000 in ten parts 400 each, give or take
    draw = random.Random(11).uniform
    drawn = [backoff_delay(4, base=1.0, maximum=10.0, jitter=True, uniform=draw) for _ in range(4000)]
    parts = [sum(part <= one < part + 1 for one in drawn) for part in range(10)]
    assert sum(parts) == 4000 and all(300 < count < 500 for count in parts), parts
    spread = [backoff_delay(3, base=1, maximum=99, jitter=True, uniform=random.Random(7).uniform) for _ in range(2)]
    assert spread[0] == spread[1] and 0 <= spread[0] <= 8
