"""States of the unfinished and revoked ids on a real server: what is kept, for how long, and what is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from taskstream import AsyncResult, BrokerUnavailable, TaskFailed, Taskstream, ValidationError, keys
from taskstream.app import unfinished
from taskstream.broker import Broker, revocations, states
from taskstream.broker.states import PROGRESS, STARTED, State
from taskstream.control import Control
from taskstream.message import Delivery, Message
from taskstream.results.base import Failure, Outcome

DAY_S = 24 * 3600


@pytest.fixture
def broker(broker_url: str) -> Iterator[Broker]:
    made = Broker(broker_url)
    yield made
    made.close()


@pytest.fixture
def app(broker_url: str, tmp_path: Path) -> Iterator[Taskstream]:
    made = Taskstream("shop", broker=broker_url, results=f"json://{tmp_path / 'results'}")
    yield made
    made.close()


def kept(app: Taskstream, state: str, delivery: int, value: bytes = b"null", error: Failure | None = None) -> None:
    """A worker has kept an outcome of m1."""
    assert app.results is not None
    raw = msgspec.Raw(value)
    app.results.write([Outcome("m1", "taskstream", "shop.t", state, delivery, 1, 0, 0, 0, "w", raw, error)])


def said(app: Taskstream, state: str, delivery: int, info: Any = None) -> None:
    """A run of m1 has said how it gets on."""
    app.unfinished.note(
        Delivery(Message("m1", "shop.t", b"{}"), "shop", "taskstream", "1-1", delivery), state, "w", info
    )


def test_the_newest_is_what_counts(app: Taskstream) -> None:
    result: AsyncResult[Any] = app.AsyncResult("m1")
    assert (result.state, result.info) == ("PENDING", None)
    said(app, STARTED, 1)
    assert (result.state, result.info) == ("STARTED", None)
    said(app, PROGRESS, 1, {"done": 1})
    assert (result.state, result.info, result.ready()) == ("PROGRESS", {"done": 1}, False)
    # When the run failed and is to be tried again
    kept(app, "RETRY", 1, error=Failure("OSError", "gone"))
    assert result.state == "RETRY" and isinstance(result.info, TaskFailed) and "OSError: gone" in str(result.info)
    # And the next one runs
    said(app, STARTED, 2)
    assert result.state == "STARTED" and not result.failed()
    # And ends
    kept(app, "SUCCESS", 2, b"5")
    assert (result.state, result.info, result.successful()) == ("SUCCESS", 5, True)
    result.forget()
    assert result.state == "PENDING"


def test_a_scheduled_message_is_so_until_its_time(app: Taskstream, redis_client: redis.Redis) -> None:
    later = app.send_task("t", countdown=3600)
    name = keys.state(later.id)
    assert later.state == "SCHEDULED" and DAY_S + 3500 < redis_client.ttl(name) <= DAY_S + 3600
    # Many at once, too, and those without a time cost nothing
    soon = app.send_task("t", countdown=0.05)
    plain = app.send_task("t")
    assert not redis_client.exists(keys.state(plain.id))
    deadline = time.monotonic() + 5
    while soon.state == "SCHEDULED" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert soon.state == "PENDING"
    # What a run has said is newer than what its sender says late
    said(app, STARTED, 1)
    states.note_scheduled(app.broker, [("m1", states.now_ms() + 60_000)])
    assert app.AsyncResult("m1").state == "STARTED"
    # Revoked, it is remembered for as long as it may come
    later.revoke()
    assert DAY_S + 3500 < redis_client.ttl(keys.revoked("shop", "taskstream")) <= DAY_S + 3602


def test_a_state_is_told_and_ends_by_itself(broker: Broker, redis_client: redis.Redis) -> None:
    told = redis_client.pubsub()
    told.subscribe(keys.state("m1"))
    assert told.get_message(timeout=5) is not None
    state = State(PROGRESS, 5, {"ü": [1]}, "w", 3)
    states.note(broker, "m1", state)
    heard = told.get_message(timeout=5)
    assert heard is not None and states.decode(heard["data"]) == state == states.read(broker, "m1")
    assert 0 < redis_client.ttl(keys.state("m1")) <= DAY_S
    told.close()
    with pytest.raises(ValidationError):
        states.note(broker, "m1", State(PROGRESS, 5, {1, 2.5, object()}))
    redis_client.set(keys.state("m1"), b"no state", ex=9)
    assert states.read(broker, "m1") is None


def test_no_task_fails_and_none_waits_because_its_state_cannot_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def note(broker: object, message_id: str, state: State) -> None:
        tries.append(state.state)
        raise BrokerUnavailable("away")

    monkeypatch.setattr(states, "note", note)
    away = unfinished.Unfinished(lambda: Broker("redis://127.0.0.1:1/0"))
    delivery = Delivery(Message("m1", "t", b"{}"), "s", "g", "1-1", 1)
    away.note(delivery, STARTED, "w")
    away.note(delivery, PROGRESS, "w")
    assert tries == [STARTED]  # the second is not even tried for a while
    assert away.read("m1") is None


def test_revoked_ids_add_up_and_end_by_themselves(broker: Broker, redis_client: redis.Redis) -> None:
    assert revocations.revoked(broker.call, "s", "g") == {} and revocations.revokes(broker.call, "s", "g") == 0
    assert revocations.revoke(broker, "s", "g", ["a", "b"], False) == 1
    assert revocations.revoke(broker, "s", "g", ["b", "c"], True) == 2
    # What is to be ended stays so, and the version that renewals bring has changed
    assert revocations.revoke(broker, "s", "g", ["c"], False) == 3
    assert revocations.revoked(broker.call, "s", "g") == {"a": False, "b": True, "c": True}
    assert broker.choice("s", "g") == (3, None)
    # An id that is remembered for longer is not forgotten sooner by being revoked again
    name = keys.revoked("s", "g")
    redis_client.zincrby(name, 3_600_000, "a")
    revocations.revoke(broker, "s", "g", ["a"], False)
    assert DAY_S + 3500 < redis_client.ttl(name) <= DAY_S + 3602
    # What has ended is gone with the next one
    redis_client.zadd(name, {"old": 5})
    revocations.revoke(broker, "s", "g", [f"m{n}" for n in range(2_500)], False)
    found = revocations.revoked(broker.call, "s", "g")
    assert "old" not in found and len(found) == 2_503


def test_the_operators_choice_and_revoking_do_not_disturb_each_other(broker: Broker) -> None:
    broker.set_state("s", "g", "stopped")
    revocations.revoke(broker, "s", "g", ["a"], False)
    assert broker.choice("s", "g") == (2, "stopped")
    assert broker.set_state("s", "g", "started") == 3 and revocations.revokes(broker.call, "s", "g") == 1


def test_workers_are_told_what_they_need(broker: Broker, redis_client: redis.Redis) -> None:
    told = redis_client.pubsub()
    told.subscribe(keys.CONTROL_CHANNEL)
    assert told.get_message(timeout=5) is not None
    control = Control(broker)
    assert control.revoke("s", "g", ["a"], True) == []
    control.revoke("s", "g", [str(n) for n in range(1_001)])
    heard = [msgspec.json.decode(one["data"]) for _ in range(2) if (one := told.get_message(timeout=5))]
    told.close()
    assert heard[0] == {
        "id": "",
        "command": "revoke",
        "args": {"stream": "s", "group": "g", "ids": ["a"], "terminate": True, "number": 1},
        "worker": None,
    }
    # More than a hint should carry: a number they cannot know, so that they read
    assert heard[1]["args"]["ids"] == [] and heard[1]["args"]["number"] == 4
    # Nobody is there to answer
    assert control.revoke("s", "g", ["b"], timeout=0.1) == []
