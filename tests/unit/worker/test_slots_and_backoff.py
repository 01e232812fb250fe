"""Free slots and growing pauses."""

from __future__ import annotations

from taskstream_worker.backoff import Backoff
from taskstream_worker.slots import Slots


def test_slots_in_use_and_reserved_are_not_free() -> None:
    slots = Slots(10)
    assert slots.free == 10
    slots.used += 4
    slots.reserved += 3
    assert slots.free == 3
    slots.used += 5
    assert slots.free < 0


def test_notice_wakes_a_reader_that_waits() -> None:
    slots = Slots(1)
    assert not slots.changed.wait(0)
    slots.notice()
    slots.notice()
    assert slots.changed.wait(0)


def test_pauses_double_up_to_the_longest_and_start_over() -> None:
    for _ in range(20):
        backoff = Backoff(0.1, 1.0)
        spans = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        pauses = [backoff.next() for _ in spans]
        assert all(span / 2 <= pause <= span for span, pause in zip(spans, pauses, strict=True))
        backoff.reset()
        assert backoff.next() <= 0.1


def test_pauses_differ() -> None:
    assert len({Backoff(1.0, 1.0).next() for _ in range(20)}) > 10
