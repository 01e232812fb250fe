"""Broker URLs, what errors become, and that a connection never takes one reply for another."""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.sentinel import Sentinel, SentinelManagedConnection

from taskstream.broker import Broker
from taskstream.connection import (
    CONSUMER,
    PRODUCER,
    Profile,
    broker_errors,
    open_pool,
    passing,
    translate,
)
from taskstream.display import display_url
from taskstream.errors import BrokerUnavailable, ConfigError, TaskstreamError
from taskstream.link import STALE_S, Link, LinkPool

PASSWORD = "pa:ss@w/o#rd"
QUOTED = "pa%3Ass%40w%2Fo%23rd"


@pytest.mark.parametrize(
    ("url", "kind", "options"),
    [
        ("redis://h:7000/2", Connection, {"host": "h", "port": 7000, "db": 2}),
        (f"redis://u:{QUOTED}@h", Connection, {"username": "u", "password": PASSWORD}),
        ("rediss://h", SSLConnection, {"host": "h"}),
        ("unix:///run/valkey.sock?db=3", UnixDomainSocketConnection, {"path": "/run/valkey.sock", "db": 3}),
        (
            f"sentinel://u:{QUOTED}@a:1,b,c:3/main/4",
            SentinelManagedConnection,
            {"username": "u", "password": PASSWORD, "db": 4},
        ),
    ],
)
def test_urls(url: str, kind: type, options: dict[str, Any]) -> None:
    pool = open_pool(url, PRODUCER)
    assert pool.connection_class is kind
    assert {name: pool.connection_kwargs.get(name) for name in options} == options
    connection: Any = pool.make_connection()
    assert connection.retry._retries == 0, "a retry after a lost reply would publish twice"
    assert connection.socket_timeout == PRODUCER.socket_timeout
    assert connection.socket_connect_timeout == PRODUCER.connect_timeout
    assert connection.protocol == 2


def test_a_sentinel_url_names_its_hosts_and_service() -> None:
    pool = open_pool("sentinel://a:1,b,c:3/main/4", PRODUCER)
    manager = pool.sentinel_manager  # type: ignore[attr-defined]
    addresses = [one.connection_pool.connection_kwargs for one in manager.sentinels]
    assert [(one["host"], one["port"]) for one in addresses] == [("a", 1), ("b", 26379), ("c", 3)]
    assert pool.service_name == "main"  # type: ignore[attr-defined]
    assert all(one["socket_timeout"] == PRODUCER.socket_timeout for one in addresses)


def test_timeouts_of_the_roles() -> None:
    # A read that blocks on the server ends well before its socket gives up.
    from taskstream.connection import BLOCK_MS

    assert CONSUMER.socket_timeout >= 2 * BLOCK_MS / 1000
    assert PRODUCER.socket_timeout + PRODUCER.connect_timeout < 10


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://h",
        "redis://h:port",
        "redis://h/x/y?socket_timeout=x",
        "redis://h:1/x",
        "rediss://h/-1",
        "redis://h/1/2",
        "sentinel:///main",
        "sentinel://h",
        "sentinel://h:x/main",
        "sentinel://h/main/x",
        "redis://[::1",
        "redis://h?nonsense=1",
    ],
)
def test_a_url_that_cannot_be_used_is_one_line(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        Link(url).call("PING")
    assert "\n" not in str(caught.value)


URLS_WITH_PASSWORD = [
    "redis://:{}@h:1/0",
    "redis://u:{}@h:1/0",
    "rediss://u:{}@h:1/0",
    "sentinel://u:{}@a:1,b:2/main",
    "unix://u:{}@/run/x.sock",
    "http://u:{}@h",
    "redis://u:{}@h:port",
    "redis://u:{}@[::1",
    "redis://h:1/0?password={}",
    "redis://h:1/0?username=u&password={}&db=1",
]


@pytest.mark.parametrize("url", URLS_WITH_PASSWORD)
@pytest.mark.parametrize("password", ["secret", "se@cret", "%73ecret"])
def test_no_password_is_ever_shown(url: str, password: str) -> None:
    url = url.format(password)
    shown = [display_url(url)]
    try:
        shown.append(Broker(url).display_url)
    except ConfigError as error:
        shown.append(str(error))
    assert [text for text in shown if "cret" in text] == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("unix:///run/x.sock", "unix:///run/x.sock"),
        ("json:///var/results", "json:///var/results"),
        ("redis://:x@h:1/0", "redis://***@h:1/0"),
        ("rediss://u:x@h:1/0", "rediss://u:***@h:1/0"),
        ("sentinel://u:x@a:1,b:2/main", "sentinel://u:***@a:1,b:2/main"),
        ("redis://h:1/0?db=1&password=x", "redis://h:1/0?db=1&password=***"),
    ],
)
def test_the_rest_is_shown(url: str, shown: str) -> None:
    assert display_url(url) == shown


# -- errors ------------------------------------------------------------------------------------------------

PASSING = [
    redis.ConnectionError("refused"),
    redis.TimeoutError("slow"),
    OSError(32, "Broken pipe"),
    redis.exceptions.BusyLoadingError("loading"),
    redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
    redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    *(
        redis.ResponseError(text)
        for text in (
            "LOADING x",
            "MISCONF x",
            "CLUSTERDOWN x",
            "NOREPLICAS x",
            "OOM x",
            "max number of clients reached",
        )
    ),
]
LASTING = [redis.ResponseError("WRONGTYPE x"), redis.ResponseError("ERR unknown command"), redis.DataError("x")]


@pytest.mark.parametrize("error", PASSING, ids=repr)
@pytest.mark.parametrize("sent", [True, False])
def test_what_passes_is_unavailable(error: Exception, sent: bool) -> None:
    found = translate(error, "redis://h", sent=sent)
    assert isinstance(found, BrokerUnavailable) and passing(error)
    # An error reply is an answer: it says that nothing was done.
    assert found.maybe_sent is (sent and not isinstance(error, redis.ResponseError))
    assert "redis://h" in str(found)


@pytest.mark.parametrize("error", [*LASTING, redis.AuthenticationError("WRONGPASS")], ids=repr)
def test_what_stays_wrong_is_a_configuration_error(error: Exception) -> None:
    found = translate(error, "redis://h", sent=True)
    assert type(found) is ConfigError and "redis://h" in str(found)


def test_a_message_that_comes_before_the_password_is_refused_like_any_other_command() -> None:
    error = redis.ResponseError("Protocol error: unauthenticated multibulk length")
    text = "broker redis://h refused the credentials: NOAUTH Authentication required."
    assert str(translate(error, "redis://h", sent=True)) == text


@pytest.mark.parametrize(
    ("error", "url", "ends"),
    [
        (redis.TimeoutError("Timeout connecting to server"), "rediss://h", "; is this port TLS?"),
        (redis.ConnectionError("[SSL: WRONG_VERSION_NUMBER] wrong version"), "rediss://h", "; is this port TLS?"),
        (redis.TimeoutError("Timeout connecting to server"), "redis://h", "to server"),
        (redis.InvalidResponse("Protocol error, got '<'"), "redis://h", "; this is no Redis server"),
    ],
    ids=str,
)
def test_a_doubtful_url_is_doubted(error: Exception, url: str, ends: str) -> None:
    assert str(translate(error, url, sent=False)).endswith(ends)


def test_the_context_translates_and_lets_others_pass() -> None:
    with pytest.raises(BrokerUnavailable), broker_errors("redis://h"):
        raise redis.ConnectionError("refused")
    with pytest.raises(ZeroDivisionError), broker_errors("redis://h"):
        raise ZeroDivisionError
    assert issubclass(BrokerUnavailable, TaskstreamError)


# -- Link, against a server that answers as a script says ----------------------------------------------------


class Scripted:
    """A server on loopback: ``script(connection number, commands so far, bytes)`` gives each answer, None: silence."""

    def __init__(self, script: Callable[[int, int], bytes | None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.connections = 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        self._threads: list[threading.Thread] = []

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        count = 0
        with connection, suppress(OSError):  # the client hangs up where a test wants it to
            while True:
                data = connection.recv(65536)
                if not data:
                    return
                for _ in range(data.count(b"CLIENT\r\n$7\r\nSETINFO")):
                    connection.sendall(b"+OK\r\n")
                for _ in range(data.count(b"\r\nASK\r\n")):
                    count += 1
                    answer = self._script(number, count)
                    if answer == b"":
                        connection.shutdown(socket.SHUT_RDWR)
                    elif answer is not None:
                        connection.sendall(answer)

    def hang_up(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        self._thread.join(5)
        for thread in self._threads:
            thread.join(5)


@contextmanager
def serving(script: Callable[[int, int], bytes | None]) -> Iterator[Scripted]:
    server = Scripted(script)
    try:
        yield server
    finally:
        server.close()


QUICK = Profile(socket_timeout=0.2)


def test_a_late_reply_is_never_read() -> None:
    # Given a server that says nothing at first
    late = threading.Event()

    def script(connection: int, count: int) -> bytes | None:
        if connection == 1:
            late.wait(5)
            return b"+stale\r\n"
        return b"+fresh\r\n"

    with serving(script) as server:
        link = Link(server.url, QUICK)
        with pytest.raises(redis.TimeoutError):
            link.call("ASK")
        assert not link.connected
        late.set()
        assert [link.call("ASK") for _ in range(3)] == [b"fresh"] * 3
        assert (server.connections, link.generation) == (2, 2)
        link.close()


def test_a_connection_that_the_server_ends_after_its_reply_is_not_kept() -> None:
    with serving(lambda *_: b"-ERR Protocol error: unauthenticated multibulk length\r\n") as server:
        link = Link(server.url, QUICK)
        with pytest.raises(redis.ResponseError):
            link.call("ASK")
        assert not link.connected


def test_half_a_round_trip_is_never_read_either() -> None:
    def script(connection: int, count: int) -> bytes | None:
        if connection == 1:
            return b"+first\r\n" if count == 1 else None
        return b"+fresh\r\n"

    with serving(script) as server:
        link = Link(server.url, QUICK)
        with pytest.raises(redis.TimeoutError):
            link.calls([("ASK",), ("ASK",)])
        assert link.call("ASK") == b"fresh"
        link.close()


@pytest.mark.parametrize("answer", [b"", b"?nonsense\r\n", b"*2\r\n+a\r\n"], ids=["closed", "nonsense", "cut off"])
def test_any_broken_connection_is_replaced(answer: bytes) -> None:
    with serving(lambda connection, count: answer if connection == 1 else b"+fresh\r\n") as server:
        link = Link(server.url, QUICK)
        with pytest.raises(redis.RedisError):
            link.call("ASK")
        assert not link.connected
        assert link.call("ASK") == b"fresh"
        link.close()


def test_an_interrupt_closes_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    # A greenlet may be killed while it waits for the reply.
    with serving(lambda connection, count: b"+%d.%d\r\n" % (connection, count)) as server:
        link = Link(server.url, QUICK)
        assert link.call("ASK") == b"1.1"

        def interrupted(waiting: object, *options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "recv_into", interrupted)
            with pytest.raises(KeyboardInterrupt):
                link.call("ASK")
        assert link.call("ASK") == b"2.1"
        link.close()


def test_error_replies_are_raised_after_all_replies_were_read() -> None:
    with serving(lambda connection, count: b"-ERR no\r\n" if count == 1 else b"+%d\r\n" % count) as server:
        link = Link(server.url, QUICK)
        with pytest.raises(redis.ResponseError, match="no"):
            link.calls([("ASK",), ("ASK",)])
        assert link.connected and link.call("ASK") == b"3"
        assert server.connections == 1
        link.close()


def test_a_loading_server_did_nothing_of_a_batch() -> None:
    # The client library takes this reply for a broken connection, after which a whole batch would be in doubt.
    with serving(lambda connection, count: b"-LOADING dataset\r\n" if count <= 3 else b"+%d\r\n" % count) as server:
        link = Link(server.url, QUICK)
        found = link.replies([("ASK",), ("ASK",), ("ASK",), ("ASK",)])
        assert [type(one) for one in found] == [redis.ResponseError] * 3 + [bytes]
        assert str(found[0]) == "LOADING dataset" and passing(found[0])
        assert link.call("ASK") == b"5"
        link.close()


@pytest.mark.parametrize("by_sentinel", [False, True])
def test_replies_are_the_same_however_they_are_read(monkeypatch: pytest.MonkeyPatch, by_sentinel: bool) -> None:
    # Read past the connection's own method, but for a Sentinel's, which ends a connection to what is no master now.
    said = [b"-ERR no\r\n", b"$-1\r\n", b":7\r\n", b"*2\r\n+a\r\n-WRONGTYPE b\r\n", b"-READONLY c\r\n"]
    with serving(lambda connection, count: said[count - 1]) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        monkeypatch.setattr(Sentinel, "discover_master", lambda manager, service: ("127.0.0.1", port))
        link = Link("sentinel://a:1/main" if by_sentinel else server.url, QUICK)
        error, nothing, number, both = link.replies([("ASK",)] * 4)
        assert (type(error), str(error)) == (redis.ResponseError, "no")
        assert (nothing, number, both[0]) == (None, 7, b"a") and isinstance(both[1], redis.ResponseError)
        if by_sentinel:
            with pytest.raises(redis.ConnectionError, match="master"):
                link.replies([("ASK",)])
        else:
            assert isinstance(link.replies([("ASK",)])[0], redis.exceptions.ReadOnlyError)
        assert not link.connected
        link.close()


def test_a_connection_by_sentinel_can_be_replaced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda connection, count: b"+%d\r\n" % connection) as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        monkeypatch.setattr(Sentinel, "discover_master", lambda manager, service: ("127.0.0.1", port))
        link = Link("sentinel://a:1/main", QUICK)
        for number in range(1, 4):
            assert link.call("ASK") == b"%d" % number
            link.close()


def test_a_pool_by_sentinel_waits_for_a_free_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda connection, count: b"+ok\r\n") as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        monkeypatch.setattr(Sentinel, "discover_master", lambda manager, service: ("127.0.0.1", port))
        pool = open_pool("sentinel://a:1/main", Profile(socket_timeout=5.0, max_connections=2))
        taken = [pool.get_connection() for _ in range(2)]
        threading.Timer(0.05, pool.release, (taken.pop(),)).start()
        third = pool.get_connection()
        pool.release(third)
        pool.release(taken.pop())
        pool.disconnect()
        short = open_pool("sentinel://a:1/main", Profile(socket_timeout=0.05, max_connections=1))
        held = short.get_connection()
        with pytest.raises(redis.ConnectionError, match="free"):
            short.get_connection()
        short.release(held)
        short.disconnect()


def test_a_refused_connection_leaves_it_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    link = Link(f"redis://127.0.0.1:{port}")
    for _ in range(3):
        with pytest.raises(redis.ConnectionError):
            link.call("PING")
    assert not link.connected and link.generation == 0


def test_reconnecting_for_days_leaves_nothing_behind() -> None:
    with serving(lambda connection, count: b"+ok\r\n") as server:
        link = Link(server.url, QUICK)
        for _ in range(50):
            assert link.call("ASK") == b"ok"
            link.close()
        gc.collect()
        alive = [
            one
            for one in gc.get_objects()
            if type(one) is Connection and one.port == int(server.url.split(":")[-1].split("/")[0])
        ]
        assert len(alive) <= 1
        assert link.generation == 50


def test_a_link_pool_shares_a_few_links_and_waits_for_one() -> None:
    """Given a pool of one, when it is out, then another taker waits, gets it when it is back, or an error in time."""
    pool = LinkPool("redis://127.0.0.1:1", Profile(socket_timeout=0.2, max_connections=1))
    link = pool.take()
    with pytest.raises(redis.TimeoutError, match="all 1 connections"):
        pool.take()
    taken: list[Link] = []
    other = threading.Thread(target=lambda: taken.append(pool.take()))
    other.start()
    pool.give_back(link)
    other.join(5)
    assert taken == [link]


def test_a_link_pool_notices_a_connection_that_the_server_closed() -> None:
    """Given a connection closed while it rested, when it is taken again, then the next command goes over a new one."""
    with serving(lambda connection, count: b"+%d\r\n" % connection) as server:
        pool = LinkPool(server.url, QUICK)
        link = pool.take()
        assert link.call("ASK") == b"1"
        server.hang_up()
        pool.give_back(link)
        link.rested_since -= 2 * STALE_S
        assert pool.take() is link
        assert not link.connected
        assert link.call("ASK") == b"2"
