"""Replies that come late, commands that arrive by half: none is ever taken for another's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
from helpers import eventually
from proxy import FaultyProxy

from taskstream.broker import Broker
from taskstream.connection import Profile
from taskstream.errors import BrokerUnavailable
from taskstream.link import Link, LinkPool
from taskstream.message import Message

IMPATIENT = Profile(socket_timeout=0.2, max_connections=2)


@pytest.fixture
def proxy(broker_url: str) -> Iterator[FaultyProxy]:
    """Before the server."""
    proxy = FaultyProxy(broker_url)
    yield proxy
    proxy.close()


def test_a_late_reply_is_nobodys(proxy: FaultyProxy) -> None:
    link = Link(proxy.url, IMPATIENT)
    assert link.call("ECHO", "warm") == b"warm"
    for number in range(3):
        proxy.delay_reply_to(b"late", 0.3)
        with pytest.raises((redis.TimeoutError, redis.ConnectionError)):
            link.call("ECHO", f"late{number}")
        assert not link.connected
        # The next command gets its own answer, also while the late one is on its way and after it has come
        for moment in range(4):
            assert link.call("ECHO", f"next{moment}") == f"next{moment}".encode()
            time.sleep(0.1)
    assert link.generation == 4
    link.close()


def test_late_replies_among_many_threads(proxy: FaultyProxy) -> None:
    pool = LinkPool(proxy.url, Profile(socket_timeout=0.3, max_connections=4))
    wrong: list[tuple[bytes, object]] = []
    answered: list[bytes] = []
    stop = threading.Event()

    def ask(thread: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            text = f"{thread}-{number}".encode()
            try:
                link = pool.take()
            except redis.TimeoutError:
                continue
            try:
                found = link.call("ECHO", text)
                (answered if found == text else wrong).append(text)  # type: ignore[arg-type]
            except (redis.RedisError, OSError):
                pass
            finally:
                pool.give_back(link)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number in range(4):
        before = len(answered)
        eventually(lambda before=before: len(answered) > before + 100)  # type: ignore[misc]
        proxy.drop(requests=False)
        time.sleep(0.4 if number % 2 else 0.2)
        proxy.heal()
    stop.set()
    for thread in threads:
        thread.join()
    pool.close()
    assert wrong == []


def test_half_a_command_does_nothing(proxy: FaultyProxy, redis_client: redis.Redis) -> None:
    broker = Broker(proxy.url)
    broker.ping()
    for number in range(3):
        proxy.cut_inside_request(b"XADD")
        with pytest.raises(BrokerUnavailable) as caught:
            broker.publish("s", Message(f"half{number}", "n", b"{}" + b" " * 1000))
        # The producer cannot know that it did nothing
        assert caught.value.maybe_sent
    broker.publish("s", Message("whole", "n", b"{}"))
    assert [fields[b"id"] for _, fields in redis_client.xrange("s")] == [b"whole"]
    broker.close()


def test_a_restart_puts_one_call_in_doubt_and_not_one_for_each_connection(proxy: FaultyProxy) -> None:
    broker = Broker(proxy.url)
    links = [broker._links.take() for _ in range(5)]
    for link in links:
        link.call("PING")
        broker._links.give_back(link)
    proxy.cut()
    doubts = 0
    for number in range(10):
        try:
            broker.publish("s", Message(f"m{number}", "n", b"{}"))
        except BrokerUnavailable as error:
            doubts += error.maybe_sent
    assert doubts == 1
    broker.close()
