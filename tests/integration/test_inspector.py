"""What the inspector reads from a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from taskstream import inspector, keys
from taskstream.broker import Broker
from taskstream.cli.main import main
from taskstream.message import Message, new_id


@pytest.fixture
def broker(broker_url: str) -> Iterator[Broker]:
    broker = Broker(broker_url)
    yield broker
    broker.close()


def send(broker: Broker, stream: str, count: int) -> None:
    for _ in range(count):
        broker.publish(stream, Message(new_id(), "Order", b"{}"))


def test_streams_and_groups(broker: Broker, redis_client: redis.Redis) -> None:
    # Given a stream with two groups, one of which took two of three messages and was stopped
    broker.announce_subscriptions({"shop.1x0.bill": ("orders", "billing")}, 60.0)
    send(broker, "orders", 3)
    redis_client.xgroup_create("orders", "billing", id="0")
    redis_client.xgroup_create("orders", "audit", id="0")
    redis_client.xreadgroup("billing", "c1", {"orders": ">"}, count=2)
    redis_client.zadd(keys.delayed("orders", "billing"), {"[]": 1})
    redis_client.zadd(keys.dead("orders", "billing"), {"x": 1, "y": 2})
    broker.set_state("orders", "billing", "stopped")
    # When it is looked at
    found = inspector.overview(broker, ["not-there-yet"])
    # Then
    assert [stream.name for stream in found.streams] == ["not-there-yet", "orders"]
    nothing, orders = found.streams
    assert (nothing.length, nothing.groups) == (0, [])
    assert orders.length == 3
    audit, billing = orders.groups
    assert (audit.name, audit.label, audit.waiting, audit.held, audit.state) == ("audit", None, 3, 0, None)
    assert (billing.name, billing.label, billing.waiting, billing.held) == ("billing", "shop.1x0.bill", 1, 2)
    assert (billing.delayed, billing.dead, billing.consumers, billing.state) == (1, 2, 1, "stopped")
    assert billing.oldest_age_s is not None and 0.0 <= billing.oldest_age_s < 60.0
    assert abs(found.at_ms - broker.now_ms()) < 60_000


def test_length_and_groups_are_of_one_moment(broker_url: str, redis_client: redis.Redis) -> None:
    class Busy(Broker):
        """Its messages are done as soon as somebody has read the groups."""

        def _unread(self, stream: str, group: dict[str, Any]) -> tuple[int, int | None]:
            redis_client.xtrim("orders", maxlen=0, approximate=False)
            return super()._unread(stream, group)

    broker = Busy(broker_url)
    try:
        send(broker, "orders", 3)
        redis_client.xgroup_create("orders", "billing", id="0")
        redis_client.xreadgroup("billing", "c1", {"orders": ">"}, count=3)
        (orders,) = inspector.overview(broker, ["orders"]).streams
        assert (orders.length, orders.groups[0].held) == (3, 3)
    finally:
        broker.close()


def test_where_nobody_chose_what_the_workers_do_holds(broker: Broker, redis_client: redis.Redis) -> None:
    redis_client.xgroup_create("orders", "billing", id="0", mkstream=True)
    held = {"label": "shop.1x0.bill", "stream": "orders", "group": "billing", "state": "started"}
    info = {"name": "w", "host": "h", "pid": 1, "started_ms": 1, "state": "running", "concurrency": 1}
    broker.announce_worker("w", {**info, "subscriptions": [held]}, 60)
    (group,) = inspector.overview(broker, ["orders"]).streams[0].groups
    assert (group.state, group.choice) == ("started", None)
    broker.set_state("orders", "billing", "stopped")
    (group,) = inspector.overview(broker, ["orders"]).streams[0].groups
    assert (group.state, group.choice) == ("stopped", "stopped")


def test_a_group_that_is_done_has_no_age(broker: Broker, redis_client: redis.Redis) -> None:
    redis_client.xgroup_create("orders", "billing", id="0", mkstream=True)
    (group,) = inspector.overview(broker, ["orders"]).streams[0].groups
    assert (group.waiting, group.held, group.oldest_age_s) == (0, 0, None)


def test_workers(broker: Broker) -> None:
    subscription = {"label": "images", "stream": "images", "group": "taskstream", "state": "started", "consumed": 7}
    broker.announce_worker(
        "w1",
        {
            "name": "w1",
            "host": "box",
            "pid": 12,
            "started_ms": 5,
            "state": "paused",
            "reason": "disk full",
            "concurrency": 100,
            "processed": 9,
            "subscriptions": [subscription],
            "of a later release": True,
        },
        60,
    )
    broker.announce_worker("unreadable", {"name": "unreadable", "pid": "?"}, 60)
    (worker,) = inspector.overview(broker).workers
    assert (worker.name, worker.host, worker.pid, worker.state, worker.reason) == (
        "w1",
        "box",
        12,
        "paused",
        "disk full",
    )
    assert (worker.processed, worker.failed, worker.concurrency) == (9, 0, 100)
    assert [(held.label, held.consumed) for held in worker.subscriptions] == [("images", 7)]


def test_nothing_there(broker: Broker) -> None:
    found = inspector.overview(broker)
    assert (found.streams, found.workers) == ([], [])


def test_what_was_tried_is_as_old_as_its_sending(broker: Broker, redis_client: redis.Redis) -> None:
    now = broker.now_ms()
    redis_client.xgroup_create("jobs", "taskstream", id="0", mkstream=True)
    again = keys.again("jobs", "taskstream")
    redis_client.xgroup_create(again, "taskstream", id="0", mkstream=True)
    redis_client.xadd(again, {"v": "1", "id": "m", "sent": str(now - 3_600_000)})
    for _ in ("unread", "held"):
        (group,) = inspector.overview(broker, ["jobs"]).streams[0].groups
        assert group.oldest_age_s is not None and 3_600 <= group.oldest_age_s < 3_700
        redis_client.xreadgroup("taskstream", "c1", {again: ">"})


def test_streams_that_nobody_registered(
    broker: Broker, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(broker, "typo", 1)
    send(broker, "ts:no", 1)
    redis_client.xadd("foreign", {"f": "v"})
    redis_client.xadd(b"no\xffname", {"v": "1"})
    redis_client.set("text", "x", ex=60)
    assert broker.streams_there() == (["typo"], True)
    # No more keys are looked at than the limit says
    with redis_client.pipeline() as pipeline:
        for number in range(300):
            pipeline.set(f"other-{number}", "x", ex=60)
        pipeline.execute()
    monkeypatch.setattr("taskstream.broker.broker.SCAN_LIMIT", 100)
    monkeypatch.setattr("taskstream.broker.broker.SCAN_PIECE", 50)
    assert broker.streams_there()[1] is False


def test_why_a_worker_is_paused_is_a_line_of_its_own(
    broker: Broker, broker_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"name": "w1", "host": "h", "pid": 1, "started_ms": 1, "state": "paused", "concurrency": 1}
    broker.announce_worker("w1", {**about, "reason": "disk\nfull"}, 60)
    assert main(["workers", "--broker", broker_url]) == 0
    row, reason = capsys.readouterr().out.splitlines()[1:]
    assert row.split()[:4] == ["w1", "h", "1", "paused"] and reason == "w1 paused: disk\\nfull"
