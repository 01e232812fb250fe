"""The one writer of a process' outcomes: what it merges, when it pauses, whom it answers."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import gevent
import pytest
from outcomes import outcome

from taskstream.results import Outcome
from taskstream_worker import keeper as module
from taskstream_worker.clock import boottime
from taskstream_worker.keeper import Keeper

FULL = OSError(errno.ENOSPC, "the disk is full: free some space", "/results")


class Store:
    """Takes what it is given; blocks while ``open`` is not set, fails while there are ``errors``."""

    url = "file:///results"

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.errors: list[Exception] = []
        self.tried: list[list[str]] = []
        self.kept: list[list[str]] = []

    def write(self, outcomes: Sequence[Outcome]) -> None:
        ids = [one.id for one in outcomes]
        self.tried.append(ids)
        assert self.open.wait(20)
        if self.errors:
            raise self.errors[0]
        self.kept.append(ids)

    def close(self) -> None:
        self.kept.append([])


class Member:
    """A membership as the keeper sees it."""

    def __init__(self, deadline: float = 1e12) -> None:
        self.lost = False
        self.deadline = deadline


class World:
    """A keeper at work, and what it said."""

    def __init__(self) -> None:
        self.store = Store()
        self.said: list[str | None] = []
        self.keeper = Keeper(self.store, self.said.append)  # type: ignore[arg-type]
        self.keeper.start()

    def keep(self, message_id: str, member: Member | None = None) -> gevent.Greenlet[..., Any]:
        return gevent.spawn(self.keeper.keep, member or Member(), [outcome(message_id)])  # type: ignore[arg-type]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.store.open.set()
    made.store.errors.clear()
    gevent.sleep(0)


def until(condition: Any) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.001)


def test_what_waits_while_a_write_is_under_way_is_the_next_one(world: World) -> None:
    world.store.open.clear()
    first = world.keep("a")
    until(lambda: world.store.tried)
    rest = [world.keep(key) for key in "bcd"]
    gevent.sleep(0)
    world.store.open.set()
    assert [one.get(timeout=20) for one in [first, *rest]] == [True] * 4
    assert world.store.kept == [["a"], ["b", "c", "d"]]
    assert world.said == []


def test_handlers_that_fill_the_shared_thread_pool_hold_nothing_up(world: World) -> None:
    pool, released = gevent.get_hub().threadpool, threading.Event()
    blocked = [pool.spawn(released.wait, 20) for _ in range(pool.maxsize)]
    try:
        assert world.keep("a").get(timeout=10) is True
    finally:
        released.set()
        gevent.joinall(blocked)


def test_a_full_disk_is_said_once_and_tried_until_it_takes_what_waits(world: World) -> None:
    world.store.errors = [FULL]
    first = world.keep("a")
    until(lambda: len(world.store.tried) > 1)
    second = world.keep("b")
    until(lambda: world.store.tried[-1] == ["a", "b"])
    assert len(world.said) == 1
    assert "the disk is full: free some space" in str(world.said[0]) and "/results" in str(world.said[0])
    assert not first.ready() and not second.ready()
    world.store.errors = []
    assert first.get(timeout=20) and second.get(timeout=20)
    assert world.store.kept == [["a", "b"]]
    assert world.said[1:] == [None]


def test_who_lost_its_lease_is_told_and_its_outcomes_are_let_be(world: World) -> None:
    world.store.errors = [FULL]
    mine, theirs = Member(), Member()
    lost, kept = world.keep("a", mine), world.keep("b", theirs)
    until(lambda: len(world.store.tried) > 1)
    mine.lost = True
    assert lost.get(timeout=20) is False
    world.store.errors = []
    assert kept.get(timeout=20) is True
    assert world.store.kept == [["b"]]
    # Nothing is left that could find out whether the disk works: then the process takes messages again
    world.store.errors = [FULL]
    alone = Member()
    lost = world.keep("c", alone)
    until(lambda: len(world.said) == 3)
    alone.lost = True
    assert lost.get(timeout=20) is False
    until(lambda: world.said[-1] is None)


def test_nothing_is_written_under_a_lease_that_may_have_run_out(world: World) -> None:
    unsure = Member(deadline=boottime() - 1)
    waits = world.keep("a", unsure)
    assert world.keep("b").get(timeout=20) is True
    assert world.store.tried == [["b"]] and not waits.ready()
    unsure.deadline = 1e12
    assert waits.get(timeout=20) is True


def test_a_write_that_does_not_come_back_pauses_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", 0.02)
    world.store.open.clear()
    waits = world.keep("a")
    until(lambda: world.said)
    assert "file:///results has not answered" in str(world.said[0])
    world.keeper.close(5.0)  # waits for no disk that hangs
    assert world.store.kept == []
    world.store.open.set()
    assert waits.get(timeout=20) is True
    assert world.said[1:] == [None]
    world.keeper.close(5.0)
    assert world.store.kept == [["a"], []]


def test_what_no_time_mends_is_raised_to_who_asked(world: World) -> None:
    world.store.errors = [RuntimeError("no such thing")]
    failed = world.keep("a")
    with pytest.raises(RuntimeError, match="no such thing"):
        failed.get(timeout=20)
    world.store.errors = []
    assert world.keep("b").get(timeout=20) is True
    assert world.said == []
