"""What a process says of the messages that it held under a lease it has lost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from taskstream.broker.group import Call, Entry
from taskstream_worker import intake
from taskstream_worker.consumer import Consumer
from taskstream_worker.membership import Membership


class Group:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def absolve(self, call: Call, held: Any) -> None:
        self.told.append(held)


def test_what_it_held_is_told_once_without_what_nobody_counts() -> None:
    # Given three messages, one of which came because its process was ended for a hard_timeout
    group = Group()
    around = SimpleNamespace(slots=None, queue=None)
    subscription = SimpleNamespace(stream="s", group="g", handler_for=lambda name: None)
    consumer = cast(
        Consumer,
        SimpleNamespace(around=around, subscription=subscription, acker=SimpleNamespace(put=id)),
    )
    membership = Membership(consumer, cast(Any, group), 0, 0.0)
    entries = [
        Entry(number == 3, f"1-{number}", [b"v", b"1", b"id", b"m%d" % number, b"name", b"n", b"body", b"{}"], why=why)
        for number, why in ((1, ""), (2, "too long"), (3, ""))
    ]
    intake.accept(consumer, membership, entries, run=False)
    assert len(membership.jobs) == 3
    # When two come to end that life
    membership.absolve(pytest.fail)
    membership.absolve(pytest.fail)
    # Then the others are told, once
    assert group.told == [[(False, "1-1", "m1"), (True, "1-3", "m3")]]
    assert membership.jobs == {}
