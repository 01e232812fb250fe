"""What a reader asks of the server: one command a read where no priority was ever used, by priority where one is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from taskstream.broker.group import Entry, Fed
from taskstream_worker import reading
from taskstream_worker.consumer import Consumer
from taskstream_worker.membership import Membership
from taskstream_worker.reading import RANKED_S, Reading
from taskstream_worker.slots import Slots

PLAIN = Entry(False, "1-1", (b"id", b"a"))
RANKED = Entry(True, "2-1", (b"id", b"b"))


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(reading, "boottime", lambda: self.now)


class FakeGroup:
    """Answers from lists, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.fed: list[Fed] = []
        self.found = [PLAIN]
        self.during = lambda: None

    def read(
        self, call: object, count: int, block_ms: int | None, *, again: bool = True, main: bool = True
    ) -> list[Entry]:
        self.asked.append(("read", count, block_ms is not None, main))
        return self.found[:count] if again else [PLAIN]

    def feed(self, call: object, count: int, turn: int) -> Fed:
        self.asked.append(("feed", count, turn))
        self.during()
        return self.fed.pop(0)


class Reader:
    """A reading over a fake group."""

    def __init__(self, *, alone: bool = True, slots: int = 10) -> None:
        self.slots = Slots(slots)
        around = SimpleNamespace(slots=self.slots, alone=alone, queue=SimpleNamespace(closed=False))
        subscription = SimpleNamespace(concurrency=None, batch_size=None)
        self.reading = Reading(cast(Consumer, SimpleNamespace(around=around, subscription=subscription, active=0)))
        self.group = FakeGroup()

    def read(self, room: int) -> list[Entry]:
        return self.reading.read(lambda *words: None, cast(Membership, SimpleNamespace(group=self.group)), room)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_where_no_priority_was_ever_used_a_read_is_one_command(clock: Clock) -> None:
    reader = Reader()
    for _ in range(5):
        assert reader.read(3) == [PLAIN]
    assert reader.group.asked == [("read", 3, True, True)] * 5


def test_one_that_was_woken_reads_by_priority_and_counts_on(clock: Clock) -> None:
    reader = Reader()
    reader.reading.wake()
    reader.group.fed = [Fed([RANKED], 1, True), Fed([RANKED], 2, True)]
    assert [reader.read(3), reader.read(2)] == [[RANKED]] * 2
    assert reader.group.asked == [("feed", 3, 0), ("feed", 2, 1)]


def test_it_waits_on_the_server_only_when_there_is_nothing(clock: Clock) -> None:
    reader = Reader()
    reader.reading.wake()
    reader.group.fed = [Fed([], 0, False)]
    assert reader.read(3) == [PLAIN]
    assert reader.group.asked == [("feed", 3, 0), ("read", 3, True, True)]


def test_one_that_is_woken_while_it_looks_does_not_wait(clock: Clock) -> None:
    reader = Reader()
    reader.reading.wake()
    reader.group.fed = [Fed([], 0, False), Fed([RANKED], 0, True)]
    reader.group.during = reader.reading.wake
    assert reader.read(3) == []
    assert reader.read(3) == [RANKED]
    assert [asked[0] for asked in reader.group.asked] == ["feed", "feed"]


def test_after_a_while_without_priorities_a_read_is_one_command_again(clock: Clock) -> None:
    reader = Reader()
    reader.reading.wake()
    reader.group.fed = [Fed([RANKED], 0, True), Fed([PLAIN], 0, False), Fed([PLAIN], 0, False)]
    for pause in (RANKED_S - 1, RANKED_S - 1, 2):
        clock.now += pause
        reader.read(1)
    reader.group.asked.clear()
    reader.read(1)
    assert reader.group.asked == [("read", 1, True, True)]


def test_readers_that_share_slots_wait_with_few_and_never_with_the_last(clock: Clock) -> None:
    reader = Reader(alone=False, slots=8)
    reader.reading.wake()
    reader.group.fed = [Fed([], 0, False), Fed([RANKED], 0, True), Fed([], 0, False)]
    assert reader.read(8) == [PLAIN]
    assert reader.read(8) == [RANKED]
    reader.slots.used = 7
    assert reader.read(1) == [PLAIN]
    assert reader.group.asked == [
        *(("feed", 8, 0), ("read", 2, True, True)),
        ("feed", 8, 0),
        *(("feed", 1, 0), ("read", 1, False, True)),
    ]
    assert reader.slots.reserved == 0


@pytest.mark.parametrize("room", [1, 2, 10])
def test_what_came_back_never_keeps_the_stream_waiting(clock: Clock, room: int) -> None:
    reader = Reader()
    reader.group.found = [RANKED]
    seen = [entry for _ in range(12) for entry in reader.read(room)]
    both = [asked for asked in reader.group.asked if asked[3]]
    assert RANKED in seen and len(both) >= 3
    # Two of the streams' COUNT would be more than there is room for.
    assert room > 1 or seen.count(PLAIN) == 3
    assert all(count <= max(1, room // 2) for _, count, _, _ in reader.group.asked[1:])


def test_a_read_that_found_less_than_it_could_have_is_known_to_have_taken_all(clock: Clock) -> None:
    reader = Reader()
    found = []
    for room in (2, 1):
        reader.read(room)
        found.append(reader.reading.took_all)
    reader.reading.wake()
    reader.group.fed = [Fed([RANKED], 0, True), Fed([RANKED], 0, True)]
    for room in (2, 1):
        reader.read(room)
        found.append(reader.reading.took_all)
    assert found == [True, False, True, False]
