"""What a supervisor tells about the dead, and that it goes on until the broker has heard it."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest
import redis

from taskstream import logs
from taskstream.broker.group import ConsumerGroup
from taskstream_worker.releases import Releases

URL = "redis://127.0.0.1:1/0"


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


def add(releases: Releases, *groups: Group) -> None:
    for group in groups:
        releases.add("w.1", URL, cast(ConsumerGroup, group), {"m1": ""})


@pytest.fixture
def releases() -> Releases:
    """Nothing to tell yet."""
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
    releases.add("w.1", "nonsense://x", cast(ConsumerGroup, forged), {})
    add(releases, second)
    releases.turn()
    assert forged.tries == 0 and second.started and releases.next is None


def test_the_end_does_not_wait_for_ever(releases: Releases) -> None:
    add(releases, Group(*[redis.ConnectionError("gone")] * 1000))
    began = time.monotonic()
    releases.finish(0.3)
    assert 0.3 <= time.monotonic() - began < 3
