"""Sending to a real server and awaiting results over it, as a worker's commit announces them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from helpers import ROOT, OwnServer, eventually, free_port

from taskstream import BrokerUnavailable, ResultUnavailable, Taskstream, ValidationError, keys
from taskstream.app import outcomes as outcomes_module
from taskstream.app import waiter as waiter_module
from taskstream.message import from_fields
from taskstream.results.base import Outcome


def add(id: int, text: str = "") -> int:
    return id + 1


MakeApp = Callable[[str], Taskstream]


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """``make_app(url)``: an app with a task ``shop.add`` and results as JSON files; closed at the end."""
    apps: list[Taskstream] = []

    def make(url: str) -> Taskstream:
        app = Taskstream("shop", broker=url, results=f"json://{tmp_path / 'results'}")
        app.task(add)
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.close()


def finish(app: Taskstream, message_id: str, value: int) -> None:
    """What a worker does before its commit."""
    store = app.results
    assert store is not None
    raw = msgspec.Raw(str(value).encode())
    store.write([Outcome(message_id, "taskstream", "shop.add", "SUCCESS", 1, 1, 0, 0, 0, "w", raw)])


def announce(client: redis.Redis, *ids: str) -> int:
    """What the commit does where somebody watches; how many subscribers heard it."""
    if not client.exists(keys.watched("shop")):
        return 0
    return int(client.publish(keys.done_channel("shop"), " ".join(ids)))


def sent(client: redis.Redis) -> list[Any]:
    entries: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange("shop")  # type: ignore[assignment]
    found = []
    for _, fields in entries:
        message = from_fields([part for pair in fields.items() for part in pair])
        found.append((message.id, msgspec.json.decode(message.body)))
    return found


def test_delay_is_one_readable_entry(make_app: MakeApp, broker_url: str, redis_client: redis.Redis) -> None:
    app = make_app(broker_url)
    result = app.tasks["shop.add"].delay(5, text="ü")
    assert sent(redis_client) == [(result.id, {"args": [5], "kwargs": {"text": "ü"}})]
    with pytest.raises(ValidationError):
        app.tasks["shop.add"].delay(id="5")
    assert redis_client.xlen("shop") == 1


def test_enqueue_many_keeps_the_order_and_takes_one_round_trip_per_500(
    make_app: MakeApp, broker_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given four threads that enqueue at once, and a count of what is written to sockets
    app = make_app(broker_url)
    trips: list[int] = []
    original = app.broker._exchange_packed

    def counted(packed: bytes, count: int) -> list[object]:
        trips.append(count)
        return original(packed, count)

    monkeypatch.setattr(app.broker, "_exchange_packed", counted)
    task = app.tasks["shop.add"]
    # When each sends 1,100 calls
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda n: app.enqueue_many(task.s(i, text=str(n)) for i in range(1100)), range(4)))
    # Then every batch is in the stream in its order, under the ids of its handles
    assert sorted(trips) == [100] * 4 + [500] * 8
    found = sent(redis_client)
    assert len(found) == 4400
    for n, handles in enumerate(batches):
        expected = [(one.id, {"args": [i], "kwargs": {"text": str(n)}}) for i, one in enumerate(handles)]
        assert [item for item in found if item[1]["kwargs"]["text"] == str(n)] == expected


def test_a_server_that_is_not_there_is_told_in_bounded_time(make_app: MakeApp) -> None:
    app = make_app(f"redis://127.0.0.1:{free_port()}")
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        app.tasks["shop.add"].delay(1)
    assert time.monotonic() - started < 5 and not caught.value.maybe_sent
    with pytest.raises(BrokerUnavailable, match="0 of 1 messages"):
        app.enqueue_many([app.tasks["shop.add"].s(1)])


def test_a_lost_reply_may_have_been_sent_and_is_never_repeated(make_app: MakeApp, own_valkey: OwnServer) -> None:
    # Given a server that is stopped while it is connected
    app = make_app(own_valkey.url)
    app.tasks["shop.add"].delay(1)
    os.kill(own_valkey.pid, signal.SIGSTOP)
    # When a call is sent
    try:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            app.tasks["shop.add"].delay(2)
        assert caught.value.maybe_sent
        assert time.monotonic() - started < 10
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)
    # Then it was sent once, and the app goes on
    app.tasks["shop.add"].delay(3)
    with redis.Redis.from_url(own_valkey.url) as client:
        eventually(lambda: [body["args"] for _, body in sent(client)] == [[1], [2], [3]])


def test_sending_goes_on_after_a_restart_of_the_server(make_app: MakeApp, own_valkey: OwnServer) -> None:
    app = make_app(own_valkey.url)
    app.tasks["shop.add"].delay(1)
    own_valkey.kill()
    with pytest.raises(BrokerUnavailable):
        app.tasks["shop.add"].delay(2)
    own_valkey.start()
    app.tasks["shop.add"].delay(3)
    with redis.Redis.from_url(own_valkey.url) as client:
        assert [body["args"] for _, body in sent(client)] == [[1], [3]]


def test_waiters_are_woken_by_the_announcement(
    make_app: MakeApp, broker_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given fifty threads that wait, and no safety net
    monkeypatch.setattr(outcomes_module, "REREAD_S", 60.0)
    app = make_app(broker_url)
    handles = app.enqueue_many(app.tasks["shop.add"].s(n) for n in range(50))
    with ThreadPoolExecutor(50) as pool:
        values = [pool.submit(one.get, 30) for one in handles]
        eventually(lambda: app._waiter is not None and len(app._waiter._events) == 50)
        eventually(lambda: announce(redis_client, "somebody-else") == 1)
        # When their messages finish
        for n, one in enumerate(handles):
            finish(app, one.id, n)
        assert announce(redis_client, *(one.id for one in handles)) == 1
        # Then each gets its own value, over one connection, and nothing is left behind
        assert [value.result(10) for value in values] == list(range(50))
    assert app._waiter is not None and not app._waiter._events


def test_what_finished_while_subscribing_is_found_at_once(
    make_app: MakeApp, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a message that finishes after the waiter read the store and before it is subscribed: nobody announces it
    monkeypatch.setattr(outcomes_module, "REREAD_S", 60.0)
    app = make_app(broker_url)
    result = app.tasks["shop.add"].delay(1)
    original = waiter_module.Waiter._hear

    def late(self: waiter_module.Waiter) -> None:
        eventually(lambda: result.id in self._events)
        finish(app, result.id, 2)
        original(self)

    monkeypatch.setattr(waiter_module.Waiter, "_hear", late)
    started = time.monotonic()
    assert result.get(timeout=30) == 2
    assert time.monotonic() - started < 15


def test_a_second_queue_is_subscribed_on_the_same_connection(
    make_app: MakeApp, broker_url: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcomes_module, "REREAD_S", 60.0)
    app = make_app(broker_url)
    app.task(name="other", queue="other")(add)
    with ThreadPoolExecutor(2) as pool:
        first = app.tasks["shop.add"].delay(1)
        waiting = pool.submit(first.get, 30)
        eventually(lambda: redis_client.exists(keys.watched("shop")))
        second = app.tasks["other"].delay(1)
        also = pool.submit(second.get, 30)
        eventually(lambda: redis_client.exists(keys.watched("other")))
        finish(app, second.id, 22)
        eventually(lambda: redis_client.publish(keys.done_channel("other"), second.id) == 1)
        assert also.result(10) == 22
        finish(app, first.id, 11)
        assert announce(redis_client, first.id) == 1
        assert waiting.result(10) == 11
    clients = [one for one in redis_client.client_list() if int(one["sub"]) > 0]
    assert len(clients) == 1 and clients[0]["sub"] == "2"


def test_get_survives_the_server(make_app: MakeApp, own_valkey: OwnServer) -> None:
    # Given a waiter whose server goes away
    app = make_app(own_valkey.url)
    first, second = app.enqueue_many(app.tasks["shop.add"].s(n) for n in range(2))
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(first.get, 60)
        eventually(lambda: app._waiter is not None and app._waiter._connection is not None)
        own_valkey.kill()
        # When the message finishes meanwhile, then it is found all the same
        finish(app, first.id, 1)
        assert waiting.result(10) == 1
        # And when the server is back, then announcements are heard again
        also = pool.submit(second.get, 60)
        own_valkey.start()
        with redis.Redis.from_url(own_valkey.url) as client:
            eventually(lambda: announce(client, "somebody-else") == 1, timeout=20)
        finish(app, second.id, 2)
        assert also.result(10) == 2


def test_the_listener_ends_when_nobody_has_waited_for_long_and_comes_back(
    make_app: MakeApp, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter_module, "LINGER_S", 0.0)
    app = make_app(broker_url)
    for n in range(2):
        result = app.tasks["shop.add"].delay(n)
        threading.Timer(0.1, finish, (app, result.id, n)).start()
        assert result.get(timeout=30) == n
        waiter = app._waiter
        assert waiter is not None
        eventually(lambda waiter=waiter: waiter._thread is None)  # type: ignore[misc]
    assert not [one for one in threading.enumerate() if one.name == "taskstream-results"]


def test_a_live_worker_that_writes_elsewhere_is_named(make_app: MakeApp, broker_url: str) -> None:
    app = make_app(broker_url)
    info = {
        "name": "far-1",
        "subscriptions": [{"label": "shop", "stream": "shop", "group": "taskstream"}],
        "results": {"url": "file:///srv/results", "host": "far", "mark": "x"},
    }
    app.broker.announce_worker("far-1", info, ttl_s=30)
    started = time.monotonic()
    with pytest.raises(ResultUnavailable, match="worker far-1 keeps its results in /srv/results on host far"):
        app.tasks["shop.add"].delay(1).get(timeout=30)
    assert time.monotonic() - started < 5
    app.broker.forget_worker("far-1")


SCRIPT = """
{patch}
import sys, threading
from taskstream import Taskstream
app = Taskstream("shop", broker=sys.argv[1], results="json://" + sys.argv[2])

@app.task
def add(id: int) -> int:
    return id

pending = [add.delay(n) for n in range(20)]
got = []
threads = [threading.Thread(target=lambda one=one: got.append(one.get(30))) for one in pending]
for thread in threads:
    thread.start()
print(*[one.id for one in pending], flush=True)
for thread in threads:
    thread.join()
print(sorted(got), flush=True)
"""


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"], ids=["threads", "gevent"])
def test_a_process_of_threads_or_greenlets_waits_and_ends_cleanly(
    patch: str, make_app: MakeApp, broker_url: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    app = make_app(broker_url)
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(patch=patch), broker_url, str(tmp_path / "results")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        ids = process.stdout.readline().split()
        assert len(ids) == 20
        for n, one in enumerate(ids):
            finish(app, one, n)
        eventually(lambda: announce(redis_client, *ids) == 1)
        done_at = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - done_at < 10
    assert process.returncode == 0 and err == ""
    assert out.splitlines() == [str(list(range(20)))]


def test_of_calls_with_one_key_at_once_one_is_sent(
    make_app: MakeApp, broker_url: str, redis_client: redis.Redis
) -> None:
    app = make_app(broker_url)
    task = app.tasks["shop.add"]
    with ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(lambda n: task.apply_async((n,), idempotency_key="order 7: \u00fc\n"), range(80)))
    ((sent_id, _),) = sent(redis_client)
    assert {handle.id for handle in handles} == {sent_id}
    # The same text as an id is something else, and so is the key on another queue
    assert task.apply_async((1,), task_id="x").id == task.apply_async((2,), task_id="x").id == "x"
    other = task.apply_async((1,), idempotency_key="order 7: \u00fc\n", queue="other")
    assert other.id != sent_id
    assert [one for one, _ in sent(redis_client)] == [sent_id, "x"] and redis_client.xlen("other") == 1
