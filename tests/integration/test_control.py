"""The control channel's sending side against a real server, with workers that are threads of the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from helpers import OwnServer, eventually

from taskstream import keys
from taskstream.broker import Broker
from taskstream.control import STARTED, STOPPED, Control, Reply
from taskstream.errors import BrokerUnavailable, ConfigError

STREAM, GROUP, LABEL = "orders", "billing", "shop.1x0.bill-order"
Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


def described(name: str) -> dict[str, Any]:
    """What a live worker with one subscription says about itself."""
    return {
        "name": name,
        "host": "h",
        "pid": 1,
        "started_ms": 1,
        "state": "running",
        "concurrency": 10,
        "subscriptions": [{"label": LABEL, "stream": STREAM, "group": GROUP, "state": "started"}],
    }


class FakeWorker:
    """Announces itself, hears the control channel and answers what ``answer`` says (None: nothing)."""

    def __init__(self, broker: Broker, name: str, answer: Answer) -> None:
        self.name = name
        self.heard: list[dict[str, Any]] = []
        self._broker = broker
        self._answer = answer
        self._ended = threading.Event()
        self._subscription = broker.client.pubsub(ignore_subscribe_messages=True)
        self._subscription.subscribe(keys.CONTROL_CHANNEL)
        self._subscription.get_message(timeout=5.0)
        broker.announce_worker(name, described(name), 60)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            message = self._subscription.get_message(timeout=0.02)
            if message is None:
                continue
            request = json.loads(message["data"])
            self.heard.append(request)
            answer = self._answer(request)
            if answer is not None:
                key = keys.reply(request["id"])
                self._broker.client.rpush(key, json.dumps({"worker": self.name, "error": None, **answer}))
                self._broker.client.expire(key, 60)

    def end(self) -> None:
        self._ended.set()
        self._thread.join(5.0)
        self._subscription.close()
        self._broker.forget_worker(self.name)


StartWorker = Callable[..., FakeWorker]


@pytest.fixture
def broker(broker_url: str) -> Iterator[Broker]:
    broker = Broker(broker_url)
    yield broker
    broker.close()


@pytest.fixture
def start_worker(broker: Broker) -> Iterator[StartWorker]:
    started: list[FakeWorker] = []

    def start(name: str, answer: Answer = lambda request: {"ok": True, "result": request["command"]}) -> FakeWorker:
        started.append(FakeWorker(broker, name, answer))
        return started[-1]

    yield start
    for worker in started:
        worker.end()


def test_every_live_worker_answers_and_the_wait_ends_with_the_last(broker: Broker, start_worker: StartWorker) -> None:
    start_worker("w1")
    start_worker("w2")
    begun = time.monotonic()
    replies = Control(broker).request("ping", timeout=30.0)
    assert replies == [Reply("w1", True, None, "ping"), Reply("w2", True, None, "ping")]
    assert time.monotonic() - begun < 10.0


def test_request_carries_what_was_asked(broker: Broker, start_worker: StartWorker) -> None:
    worker = start_worker("w1")
    Control(broker).request("stats", {"a": 1}, worker="w*")
    assert [{**heard, "id": "…"} for heard in worker.heard] == [
        {"id": "…", "command": "stats", "args": {"a": 1}, "worker": "w*"}
    ]


def test_silent_worker_costs_the_timeout_and_no_more(broker: Broker, start_worker: StartWorker) -> None:
    start_worker("talks")
    start_worker("silent", lambda request: None)
    begun = time.monotonic()
    replies = Control(broker).request("ping", timeout=0.7)
    assert [reply.worker for reply in replies] == ["talks"]
    assert 0.6 < time.monotonic() - begun < 5.0


def test_only_workers_that_match_are_waited_for(broker: Broker, start_worker: StartWorker) -> None:
    start_worker("a1")
    start_worker("b1", lambda request: None)
    begun = time.monotonic()
    assert [reply.worker for reply in Control(broker).request("ping", worker="a*", timeout=30.0)] == ["a1"]
    assert time.monotonic() - begun < 10.0


def test_without_workers_the_answer_is_empty_and_at_once(broker: Broker) -> None:
    begun = time.monotonic()
    assert Control(broker).request("ping", timeout=30.0) == []
    assert time.monotonic() - begun < 10.0


def test_what_is_no_reply_is_passed_over(broker: Broker, start_worker: StartWorker) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        broker.client.rpush(keys.reply(request["id"]), b"\xff", b"[]", b'{"worker": 1}')
        return {"ok": False, "error": "no"}

    start_worker("w1", answer)
    assert Control(broker).request("ping") == [Reply("w1", False, "no", None)]


def test_choice_is_kept_and_its_version_sent_to_the_holders(
    broker: Broker, start_worker: StartWorker, redis_client: redis.Redis
) -> None:
    worker = start_worker("w1", lambda request: {"ok": True, "result": {"label": LABEL, "state": STOPPED}})
    control = Control(broker)
    # When the same choice is made twice
    first = control.set_state(STREAM, GROUP, STOPPED)
    second = control.set_state(STREAM, GROUP, STOPPED)
    # Then it is kept, and both times the worker obeyed the same version
    assert redis_client.hgetall(keys.control(STREAM, GROUP)) == {b"state": b"stopped", b"version": b"1"}
    assert first == second == [Reply("w1", True, None, {"label": LABEL, "state": STOPPED})]
    wanted = {"stream": STREAM, "group": GROUP, "version": 1, "state": STOPPED}
    assert [heard["args"] for heard in worker.heard] == [wanted, wanted]
    # And the next one has another version
    control.set_state(STREAM, GROUP, STARTED)
    assert worker.heard[-1]["args"] == {"stream": STREAM, "group": GROUP, "version": 2, "state": STARTED}


def test_choice_is_kept_without_workers(broker: Broker) -> None:
    begun = time.monotonic()
    assert Control(broker).set_state(STREAM, GROUP, STOPPED, timeout=30.0) == []
    assert broker.state(STREAM, GROUP) == STOPPED
    assert time.monotonic() - begun < 10.0


def test_workers_without_the_subscription_are_not_waited_for(broker: Broker, start_worker: StartWorker) -> None:
    start_worker("w1")
    broker.announce_worker("other", {**described("other"), "subscriptions": []}, 60)
    begun = time.monotonic()
    assert [reply.worker for reply in Control(broker).set_state(STREAM, GROUP, STOPPED, timeout=30.0)] == ["w1"]
    assert time.monotonic() - begun < 10.0
    broker.forget_worker("other")


def test_unknown_state_is_refused(broker: Broker) -> None:
    with pytest.raises(ValueError, match="'paused'"):
        Control(broker).set_state(STREAM, GROUP, "paused")


def test_resolve_knows_what_workers_announced_and_the_callers_own(broker: Broker) -> None:
    broker.announce_subscriptions({LABEL: (STREAM, GROUP), "images": ("images", "taskstream")}, 60.0)
    control = Control(broker)
    assert control.resolve("bill-order") == (LABEL, STREAM, GROUP)
    assert control.resolve("images") == ("images", "images", "taskstream")
    assert control.resolve("ship", {"shop.1x0.ship": ("ready", "ships")}) == ("shop.1x0.ship", "ready", "ships")
    with pytest.raises(ConfigError, match="did you mean 'bill-order'"):
        control.resolve("bill-ordr")


def test_broker_that_is_away_is_said_in_time(own_valkey: OwnServer) -> None:
    broker = Broker(own_valkey.url)
    own_valkey.kill()
    begun = time.monotonic()
    for call in (
        lambda: Control(broker).request("ping"),
        lambda: Control(broker).set_state(STREAM, GROUP, STOPPED),
        lambda: Control(broker).resolve("x"),
    ):
        with pytest.raises(BrokerUnavailable):
            call()
    assert time.monotonic() - begun < 15.0
    # And it works again when the server is back
    own_valkey.start()
    assert eventually(lambda: Control(broker).request("ping") == [])
    broker.close()
