"""A reader that found less than it has room for lets that start before it asks for more; a busy one asks at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import gevent
import pytest
from gevent.queue import SimpleQueue

from taskstream.broker.group import Entry
from taskstream_worker import intake
from taskstream_worker.consumer import STARTED, Consumer
from taskstream_worker.membership import Membership


@pytest.mark.parametrize("took_all", [True, False])
def test_what_came_alone_starts_before_the_next_read(monkeypatch: pytest.MonkeyPatch, took_all: bool) -> None:
    # Given a lane that waits for messages
    queue: SimpleQueue[Entry] = SimpleQueue()
    started: list[Entry] = []
    lane = gevent.spawn(lambda: started.append(queue.get()))
    gevent.sleep(0)
    monkeypatch.setattr(intake, "accept", lambda consumer, of, entries, **_: [queue.put(entry) for entry in entries])
    entry = Entry(False, "1-1", (b"id", b"a"))
    reading = SimpleNamespace(read=lambda *_: [entry], took_all=took_all)
    consumer: Any = SimpleNamespace(
        reading=reading, state=STARTED, subscription=SimpleNamespace(throttle=0.0), _link=SimpleNamespace(call=None)
    )
    # When the reader has taken one
    Consumer._read(consumer, cast(Membership, None), 3)
    # Then it runs before the reader goes on, if that has nothing better to do
    assert started == ([entry] if took_all else [])
    lane.join()
