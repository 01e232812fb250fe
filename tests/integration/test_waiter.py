"""Changes of a message's state are heard by whoever follows it, over the one connection of the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from helpers import eventually

from taskstream import keys
from taskstream.app.waiter import Waiter
from taskstream.broker import Broker


@pytest.fixture
def waiter(broker_url: str) -> Iterator[Waiter]:
    broker = Broker(broker_url)
    found = Waiter(broker)
    yield found
    found.close()
    broker.close()


def listeners(client: redis.Redis, message_id: str) -> int:
    ((_, count),) = client.pubsub_numsub(keys.state(message_id))
    return int(count)


def test_a_change_wakes_who_follows_that_message(waiter: Waiter, redis_client: redis.Redis) -> None:
    with waiter.waiting("m-1", ["shop"]) as other, waiter.waiting("m-2", ["shop"], states=True) as first:
        eventually(lambda: listeners(redis_client, "m-2") == 1)
        with waiter.waiting("m-2", ["shop"], states=True) as second, waiter.waiting("m-3", [], states=True) as third:
            eventually(lambda: listeners(redis_client, "m-3") == 1)
            eventually(third.is_set, message="not told to look after it is listened to")
            for event in (other, first, second, third):
                event.clear()
            redis_client.publish(keys.state("m-2"), "")
            eventually(lambda: first.is_set() and second.is_set())
            assert not other.is_set() and not third.is_set()
        eventually(lambda: listeners(redis_client, "m-3") == 0)
        assert listeners(redis_client, "m-2") == 1
        first.clear()
        redis_client.client_kill_filter(_type="pubsub")
        eventually(lambda: listeners(redis_client, "m-2") == 1)
        eventually(first.is_set, message="not told to look after a lost connection")
        first.clear()
        redis_client.publish(keys.done_channel("shop"), "m-2 m-9")
        assert first.wait(10)
    eventually(lambda: listeners(redis_client, "m-2") == 0)
