"""What a supervisor tells about the dead, and that it goes on until the broker has heard it."""

from __future__ import annotations

import sys
import time
import types
from typing import Any

import pytest
import redis

from taskstream import logs
from taskstream_worker import proxy
from taskstream_worker.clock import boottime
from taskstream_worker.releases import Releases
from taskstream_worker.told import Lease

URL = "redis://127.0.0.1:1/0"
groups: dict[str, Group] = {}
"""By the name of the consumer."""


class Group:
    """Fails as often as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tries = 0
        self.started: list[Any] = []

    def release(self, call: Any, started: Any) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        self.started.append(started)


def lease_of(group: Group, url: str = URL) -> Lease:
    consumer = f"c{len(groups)}"
    groups[consumer] = group
    return Lease(url, "s", "g", consumer, 1000)


def add(releases: Releases, *these: Group) -> None:
    for group in these:
        releases.add("w.1", lease_of(group), {"m1": ""})


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> Releases:
    """Nothing to tell yet."""
    groups.clear()
    monkeypatch.setattr(proxy, "ConsumerGroup", lambda stream, group, consumer, lease_ms: groups[consumer])
    return Releases(logs.engine_logger("supervisor"))


def test_each_is_told_once(releases: Releases) -> None:
    first, second = Group(), Group()
    assert releases.next is None
    add(releases, first, second)
    assert releases.next is not None
    releases.turn()
    releases.turn()
    assert first.started == second.started == [{"m1": ""}]
    assert releases.next is None


def test_a_broker_that_is_away_is_asked_once_a_turn(releases: Releases) -> None:
    first, second = Group(redis.ConnectionError("gone"), redis.TimeoutError("slow")), Group()
    add(releases, first, second)
    releases.turn()
    releases.turn()
    assert (first.tries, second.tries) == (1, 0)
    releases.finish(5)
    assert first.tries == 3 and first.started == second.started == [{"m1": ""}]


def test_nonsense_in_one_groups_keys_keeps_nothing_from_the_others(releases: Releases) -> None:
    first, second = Group(*[redis.ResponseError("WRONGTYPE …")] * 9), Group()
    add(releases, first, second)
    releases.turn()
    assert first.tries == 1 and second.started and releases.next is None


def test_a_url_that_cannot_be_used_keeps_nothing_from_the_others(releases: Releases) -> None:
    forged, second = Group(), Group()
    releases.add("w.1", lease_of(forged, "nonsense://x"), {})
    add(releases, second)
    releases.turn()
    assert forged.tries == 0 and second.started and releases.next is None


def test_who_cannot_be_loaded_now_is_loaded_later(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a supervisor that has no descriptor left to read a module with
    group = Group()
    add(releases, group)
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "taskstream_worker.proxy", None)
        releases.turn()
        releases.prepare()
        assert group.tries == 0 and releases.next is not None
    # When it has one again, then the broker hears what was to be told
    releases.finish(5)
    assert group.started == [{"m1": ""}]


def test_the_time_that_loading_takes_is_not_the_brokers(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a machine so busy that what speaks to brokers takes longer to load than a broker may take to answer
    class Slow(types.ModuleType):
        passed = 0.0

        def __getattribute__(self, name: str) -> Any:
            if name != "Proxy":
                return super().__getattribute__(name)
            Slow.passed += 60.0
            return proxy.Proxy

    monkeypatch.setitem(sys.modules, "taskstream_worker.proxy", Slow("taskstream_worker.proxy"))
    monkeypatch.setattr("taskstream_worker.releases.boottime", lambda: boottime() + Slow.passed)
    # When the broker answers only to the second try
    group = Group(redis.ConnectionError("gone"))
    add(releases, group)
    releases.finish(5)
    # Then there is one
    assert Slow.passed and group.started == [{"m1": ""}]


def test_the_end_does_not_wait_for_ever(releases: Releases) -> None:
    add(releases, Group(*[redis.ConnectionError("gone")] * 1000))
    began = time.monotonic()
    releases.finish(0.3)
    assert 0.3 <= time.monotonic() - began < 3
