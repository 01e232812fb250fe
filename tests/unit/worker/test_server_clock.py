"""Redis' clock as a worker knows it: from answers, and in between by a clock of its own that only counts."""

from __future__ import annotations

from taskstream_worker.server_clock import ServerClock


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_due_before_there_was_an_answer() -> None:
    clock = ServerClock(Clock())
    assert clock.now_ms() == 0 and not clock.known


def test_it_counts_on_from_the_last_answer_and_is_never_ahead() -> None:
    # Given an answer that took a while: it said the time at some moment before it was heard
    local = Clock()
    clock = ServerClock(local)
    clock.learn(1_790_000_000_000, 100.0)
    assert clock.known and clock.now_ms() == 1_790_000_000_000
    # Then it goes on from there
    local.now = 101.5
    assert clock.now_ms() == 1_790_000_001_500
    # And the next answer corrects it, in both directions
    clock.learn(1_790_000_001_900)
    assert clock.now_ms() == 1_790_000_001_900
    clock.learn(1_700_000_000_000, 101.0)
    assert clock.now_ms() == 1_700_000_000_500
