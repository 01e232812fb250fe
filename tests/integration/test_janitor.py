"""What the housekeeping of a worker process does to dead letters, and says about its broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from letters import DEAD, GROUP, LETTERS, STREAM, bury_many
from script_cases import LEASE_MS

from taskstream import keys
from taskstream.broker import Broker
from taskstream.broker.group import ConsumerGroup
from taskstream.handler import Subscription
from taskstream_worker.janitor import FORGET_COUNT, Janitor

Make = Callable[..., Janitor]
DAY = 86_400


class Log:
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, Any]] = []

    def warning(self, text: str, fields: Any) -> None:
        self.warnings.append((text, fields))

    def debug(self, text: str, fields: Any) -> None:
        pass


@pytest.fixture
def broker(broker_url: str) -> Iterator[Broker]:
    broker = Broker(broker_url)
    yield broker
    broker.close()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def janitor(log: Log) -> Make:
    def make(broker: Broker, *, warn: bool = True, **settings: Any) -> Janitor:
        subscription = Subscription("jobs", STREAM, GROUP, {}, **settings)
        mine = SimpleNamespace(group=ConsumerGroup(STREAM, GROUP, "me", LEASE_MS))
        broken = SimpleNamespace(group=ConsumerGroup("broken", GROUP, "me", LEASE_MS))
        consumers: Any = [
            SimpleNamespace(subscription=subscription, membership=one, fields=dict) for one in (broken, mine, None)
        ]
        return Janitor(broker, None, consumers, log, warn=warn)  # type: ignore[arg-type]

    return make


def test_dead_letters_are_kept_as_long_as_the_subscription_says(broker: Broker, janitor: Make) -> None:
    bury_many(broker, FORGET_COUNT + 1, ago_s=2 * DAY)
    broker.client.set(keys.dead("broken", GROUP), "not by us", ex=60)
    fresh = broker.client.zadd(DEAD, {"fresh": broker.now_ms()}) and broker.client.hset(LETTERS, "fresh", "{}")
    assert fresh
    janitor(broker)._forget_letters()
    assert broker.client.zcard(DEAD) == broker.client.hlen(LETTERS) == FORGET_COUNT + 2
    janitor(broker, dead_retention=3.0 * DAY)._forget_letters()
    assert broker.client.zcard(DEAD) == FORGET_COUNT + 2
    # More than one piece
    janitor(broker, dead_retention=1.0 * DAY)._forget_letters()
    assert broker.client.zrange(DEAD, 0, -1) == broker.client.hkeys(LETTERS) == [b"fresh"]


@pytest.fixture
def full(redis_client: redis.Redis) -> Iterator[redis.Redis]:
    """A server that deletes work when it is full."""
    redis_client.config_set("maxmemory", 10**9)
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    yield redis_client
    redis_client.config_set("maxmemory-policy", "noeviction")
    redis_client.config_set("maxmemory", 0)


def test_a_broker_that_deletes_work_is_warned_about_once(
    full: redis.Redis, broker: Broker, janitor: Make, log: Log
) -> None:
    one = janitor(broker)
    one._look_at_broker()
    one._look_at_broker()
    ((text, fields),) = log.warnings
    assert text == "Broker deletes work when it is full"
    assert "maxmemory-policy is allkeys-lru" in fields["reason"] and "noeviction" in fields["remedy"]
    # Another process of the pool says nothing
    janitor(broker, warn=False)._look_at_broker()
    # Without a limit nothing is deleted
    full.config_set("maxmemory", 0)
    janitor(broker)._look_at_broker()
    assert len(log.warnings) == 1


def test_a_broker_that_may_not_be_asked_is_no_failure(
    full: redis.Redis, broker_url: str, janitor: Make, log: Log
) -> None:
    full.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">secret", "~*", "&*", "+@all", "-info", "-config")
    broker = Broker(broker_url.replace("redis://", "redis://worker:secret@"))
    janitor(broker)._look_at_broker()
    full.execute_command("ACL", "DELUSER", "worker")
    assert log.warnings == []
    broker.close()


def test_a_broker_that_is_away_is_looked_at_later(
    full: redis.Redis, broker: Broker, janitor: Make, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = janitor(broker)
    with monkeypatch.context() as away:
        away.setattr(broker, "url", "redis://127.0.0.1:1/0")
        one._look_at_broker()
    assert log.warnings == []
    one._look_at_broker()
    assert len(log.warnings) == 1


def test_a_folder_of_results_that_can_never_work_is_told(
    broker: Broker, janitor: Make, log: Log, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for url in ("redis://h", f"file://{tmp_path}/later", f"json://{tmp_path}/file/results"):
        janitor(broker)._look_at_results(SimpleNamespace(url=url), lambda call, arguments: call(*arguments))
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    ((text, fields),) = log.warnings
    assert text.startswith("Results cannot be written")
    assert fields["reason"] == f"{tmp_path}/file cannot be written: Not a directory" and "no folder" in fields["remedy"]
