"""One ordering key, one message after the other: while processes are killed, calls fail and two producers send."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import broken_turns, notes, write_app
from helpers import Started, eventually
from jobs import kill, worker_processes

from taskstream import keys
from taskstream.broker import Broker, turns
from taskstream.broker.letters import Letters
from taskstream.handler import QUEUE_GROUP

QUEUE = "calls"
MESSAGES = 10
ORDERS = ["a", "b", "ü c", "d:e"]


@pytest.fixture
def calls(tmp_path: Path, broker_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The app, sending from here."""
    monkeypatch.setenv("TASKSTREAM_BROKER", broker_url)
    module = write_app(tmp_path)
    yield module
    module.app.close()


@pytest.fixture
def start_pool(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Callable[..., Started]:
    def start(*options: str) -> Started:
        return start_cli(
            *("worker", "-A", "calls_app:app", "--broker", broker_url, "--lease", "1", *options),
            cwd=tmp_path,
            env={"PYTHONWARNINGS": "error"},
        )

    return start


def no_order_is_left(broker: Broker) -> bool:
    return not broker.client.exists(keys.ordered(QUEUE), *(keys.order(QUEUE, key) for key in ORDERS))


def test_order_holds_under_kills_and_retries(
    calls: Any, start_pool: Callable[..., Started], tmp_path: Path, broker_url: str
) -> None:
    # Given two producers that send to the same four keys, some of whose calls fail at first
    broker = Broker(broker_url)
    handles: list[Any] = []

    def produce(name: str) -> None:
        for number in range(MESSAGES):
            for key in ORDERS:
                said = (key.replace(" ", "_"), f"{name}{number}", 0.03, number % 4 == 1)
                handles.append(calls.turn.apply_async(said, ordering_key=key))

    producers = [threading.Thread(target=produce, args=(name,)) for name in ("x", "y")]
    pool = start_pool("--processes", "2", "--concurrency", "4")
    for producer in producers:
        producer.start()
    # When a worker process is killed now and then
    for kills in range(1, 4):
        eventually(lambda least=kills: len(notes(tmp_path)) > 25 * least, 20)  # type: ignore[misc]
        victims = eventually(lambda: worker_processes(pool))
        kill(random.choice(victims), signal.SIGKILL)
    for producer in producers:
        producer.join()
    # Then all have run to their end
    total = 2 * MESSAGES * len(ORDERS)
    assert len(handles) == total
    for handle in handles:
        handle.get(timeout=30)
    for key in ORDERS:
        found = notes(tmp_path, key.replace(" ", "_"))
        # Never one before the one before it, whatever became of that, and each producer's in its order
        assert broken_turns(found) == [], key
        first_ends = list(dict.fromkeys(one.name for one in found if one.what == "end"))
        for name in ("x", "y"):
            assert [one for one in first_ends if one[0] == name] == [f"{name}{number}" for number in range(MESSAGES)]
    # And nothing is left of any order
    eventually(lambda: no_order_is_left(broker))
    broker.close()


def test_an_order_goes_on_after_dead_expired_unreadable_deleted_and_flushed_ones(
    calls: Any, start_pool: Callable[..., Started], tmp_path: Path, broker_url: str
) -> None:
    broker = Broker(broker_url)
    # Given a key whose turn is that of an entry nobody can read, and behind it one that fails for good, one that is
    # not to be started any more, and one that is to be run
    entry = {"v": "1", "id": "strange", "name": "n", "body": "{}", "attempt": "x", "headers": '{"ts-order":"a"}'}
    broker.client.xadd(QUEUE, entry)  # type: ignore[arg-type]
    broker.client.rpush(keys.order(QUEUE, "a"), "strange")
    dead = calls.once_only.apply_async(("a", "dead", True), ordering_key="a")
    late = calls.turn.apply_async(("a", "late"), ordering_key="a", expires=0)
    # And another key whose turn is that of one that an operator deletes
    calls.turn.apply_async(("b", "deleted"), ordering_key="b")
    stuck = calls.turn.apply_async(("b", "stuck"), ordering_key="b")
    assert broker.client.xdel(QUEUE, broker.client.xrevrange(QUEUE, count=1)[0][0]) == 1  # type: ignore[index]
    last = calls.turn.apply_async(("a", "last", 20.0), ordering_key="a")
    assert turns.waiting(broker.call, QUEUE) == 4
    # When a pool starts
    start_pool("--processes", "1", "--concurrency", "4")
    eventually(lambda: ("start", "a", "last") in notes(tmp_path), 20)
    # Then each has ended in its way
    assert [late.state, dead.state] == ["REVOKED", "FAILURE"] and ("start", "a", "late") not in notes(tmp_path)
    (state,) = broker.group_states(QUEUE)
    assert (state.held, state.waiting, state.dead) == (1, 1, 2)
    # And a dead letter that is requeued waits for its turn behind the one that runs
    waits = calls.turn.apply_async(("a", "waits"), ordering_key="a")
    letters = Letters(broker, QUEUE, QUEUE_GROUP)
    (letter,) = [one for found, _ in letters.get([dead.id]) for one in found]
    assert [one.done for one in letters.requeue([letter])] == [True]
    assert broker.group_states(QUEUE)[0].waiting == 3
    (tmp_path / "go-last").touch()
    assert (last.get(timeout=10), waits.get(timeout=10)) == ("last", "waits")
    eventually(lambda: dead.state == "SUCCESS")
    assert [one.name for one in notes(tmp_path, "a") if one.what == "end"] == ["last", "waits", "dead"]
    # And when nothing else is left, the one behind the deleted one is run
    assert stuck.get(timeout=20) == "stuck" and not notes(tmp_path, "deleted")
    # When everything in Redis vanishes while one runs, and another waits behind it
    calls.turn.apply_async(("a", "gone", 20.0), ordering_key="a")
    calls.turn.apply_async(("a", "lost"), ordering_key="a")
    eventually(lambda: ("start", "a", "gone") in notes(tmp_path))
    broker.client.flushall()
    # Then a new one starts an order of its own
    fresh = calls.turn.apply_async(("a", "fresh"), ordering_key="a")
    assert fresh.get(timeout=20) == "fresh"
    (tmp_path / "go-gone").touch()
    assert calls.turn.apply_async(("a", "more"), ordering_key="a").get(timeout=20) == "more"
    eventually(lambda: no_order_is_left(broker))
    broker.close()
