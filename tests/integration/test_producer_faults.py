"""Producers and a broker that fails in every way: one clear error, soon; nothing sent twice; repeats by id are safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import redis
from box import patience
from helpers import OwnServer, eventually
from proxy import FaultyProxy

from taskstream.broker import Broker, Envelope, publisher
from taskstream.connection import Profile
from taskstream.errors import BrokerUnavailable
from taskstream.message import Message

S = "jobs"
MARK = b"m-1"


def letter(one: str) -> Message:
    return Message(one, "n", b"{}")


WAYS: dict[str, Callable[[Broker], object]] = {
    "plain": lambda broker: broker.publish(S, letter("m-1")),
    "limited": lambda broker: broker.publish(S, letter("m-1"), 9),
    "once": lambda broker: broker.publish_once(S, letter("m-1"), "id:m-1"),
    "many": lambda broker: broker.publish_many([(S, letter("m-1")), (S, letter("m-2"))]),
    "many once": lambda broker: broker.publish_many(
        [Envelope(S, letter(one), (f"id:{one}",)) for one in ("m-1", "m-2")]
    ),
    "many limited": lambda broker: broker.publish_many([Envelope(S, letter(one), (), 9) for one in ("m-1", "m-2")]),
}
SAFE = ("once", "many once")


class Fault(NamedTuple):
    """``breaks`` is put in place before a call; what the error says and whether the server got the command."""

    breaks: Callable[[FaultyProxy, redis.Redis], object]
    maybe_sent: bool
    lands: bool
    mends: Callable[[FaultyProxy, redis.Redis], object] = lambda proxy, server: proxy.heal()


FAULTS = {
    "reply lost": Fault(lambda proxy, _: proxy.lose_reply_to(MARK), True, True),
    "cut once it was sent": Fault(lambda proxy, _: proxy.cut_after_request(MARK), True, True),
    "command lost": Fault(lambda proxy, _: proxy.lose_command(MARK), True, False),
    "cut in the middle of it": Fault(lambda proxy, _: proxy.cut_inside_request(MARK), True, False),
    "no reply in time": Fault(lambda proxy, _: proxy.drop(requests=False), True, True),
    "black hole": Fault(lambda proxy, _: proxy.drop(), True, True),
    "refused": Fault(lambda proxy, _: proxy.refuse(), True, False),
    "READONLY": Fault(
        lambda _, server: server.execute_command("REPLICAOF", "127.0.0.1", "1"),
        False,
        False,
        lambda _, server: server.execute_command("REPLICAOF", "NO", "ONE"),
    ),
    "OOM": Fault(
        lambda _, server: server.config_set("maxmemory", "1mb"),
        False,
        False,
        lambda _, server: server.config_set("maxmemory", "0"),
    ),
    "NOREPLICAS": Fault(
        lambda _, server: server.config_set("min-replicas-to-write", "1"),
        False,
        False,
        lambda _, server: server.config_set("min-replicas-to-write", "0"),
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server of this file's own, because its settings change."""
    found = OwnServer(tmp_path_factory.mktemp("server"))
    yield found
    found.stop()


@pytest.fixture
def client(server: OwnServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as found:
        found.flushall()
        yield found


@contextmanager
def connected(url: str) -> Iterator[Broker]:
    """A broker whose connections wait 0.3 s, already connected, its script known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publisher, "PRODUCER", Profile(socket_timeout=0.3, max_connections=2, connect_timeout=0.3))
        broker = Broker(url)
        broker.publish_once("warm", letter("w"), "id:w")
        try:
            yield broker
        finally:
            broker.close()


def sent(client: redis.Redis) -> list[str]:
    return [fields[b"id"].decode() for _, fields in client.xrange(S)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FAULTS)
def test_every_way_to_fail(server: OwnServer, client: redis.Redis, name: str, way: str) -> None:
    fault, wanted = FAULTS[name], ["m-1", "m-2"] if way.startswith("many") else ["m-1"]
    proxy = FaultyProxy(server.url)
    try:
        with connected(proxy.url) as broker:
            # Given a connection and something that breaks
            fault.breaks(proxy, client)
            # When something is sent
            with pytest.raises(BrokerUnavailable) as caught:
                WAYS[way](broker)
            # Then the error says what may have become of it, and it is never sent by itself
            assert caught.value.maybe_sent is fault.maybe_sent, caught.value
            assert "\n" not in str(caught.value) and proxy.url in str(caught.value)
            if name == "refused":
                # Only the first call had a connection, of which it could not know that it was over
                with pytest.raises(BrokerUnavailable) as caught:
                    WAYS[way](broker)
                assert not caught.value.maybe_sent
            fault.mends(proxy, client)
            if fault.lands:
                eventually(lambda: sent(client) == wanted)
            elif name == "cut in the middle of it" and way == "many":
                assert sent(client) in ([], ["m-1"])
            else:
                assert sent(client) == []
            # And repeating a call with an id is safe
            if way in SAFE:
                WAYS[way](broker)
                assert sent(client) == wanted
            else:
                before = sent(client)
                WAYS[way](broker)
                assert sent(client) == before + wanted
    finally:
        proxy.close()


def test_a_server_that_is_busy_says_so(server: OwnServer, client: redis.Redis) -> None:
    client.config_set("busy-reply-threshold", 1)

    def hog() -> None:
        with pytest.raises(redis.ResponseError):
            client.eval("while true do end", 0)

    def busy() -> bool:
        try:
            return not other.ping()
        except redis.ResponseError:
            return True

    loop = threading.Thread(target=hog)
    with connected(server.url) as broker, redis.Redis.from_url(server.url) as other:
        loop.start()
        try:
            eventually(busy)
            for send in WAYS.values():
                with pytest.raises(BrokerUnavailable, match="BUSY") as caught:
                    send(broker)
                assert not caught.value.maybe_sent
        finally:
            other.script_kill()
            loop.join()
    assert sent(client) == []


def test_the_load_of_a_server_that_hangs_is_bounded(server: OwnServer, client: redis.Redis) -> None:
    # Given more senders than connections, and a black hole
    proxy = FaultyProxy(server.url)
    errors: list[BrokerUnavailable] = []

    def send(broker: Broker) -> None:
        with pytest.raises(BrokerUnavailable) as caught:
            broker.publish(S, letter("m-1"))
        errors.append(caught.value)

    try:
        with connected(proxy.url) as broker:
            proxy.drop()
            threads = [threading.Thread(target=send, args=(broker,)) for _ in range(10)]
            started = time.monotonic()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            # Then each has its answer after one wait for a connection, one to connect and one for the reply
            assert len(errors) == 10 and time.monotonic() - started < patience(2)
            assert any(not error.maybe_sent for error in errors) and any(error.maybe_sent for error in errors)
    finally:
        proxy.close()
