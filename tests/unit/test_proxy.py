"""The proxy of the fault tests, against the simplest of servers: one that sends back what it gets."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
import warnings
from collections.abc import Iterator

import pytest
from helpers import eventually
from proxy import FaultyProxy


class Echo:
    """Sends everything back; ``heard`` is all it got, ``ended`` how many connections ended."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.heard = b""
        self.ended = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.heard += data
                client.sendall(data)
        self.ended += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(echo.url)
    yield proxy
    proxy.close()


class Client:
    """A plain connection through the proxy."""

    def __init__(self, proxy: FaultyProxy) -> None:
        port = int(proxy.url.rpartition(":")[2].partition("/")[0])
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self) -> bytes:
        """What comes next; b'' where the connection has ended."""
        try:
            return self._socket.recv(65536)
        except ConnectionResetError:
            return b""

    def ask(self, data: bytes) -> bytes:
        self.send(data)
        return self.answer()

    def silent(self) -> bool:
        """Nothing comes for a moment, and the connection lives."""
        self._socket.settimeout(0.1)
        try:
            return self._socket.recv(1) is None
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(5)


def test_everything_passes_until_told_otherwise(proxy: FaultyProxy) -> None:
    with Client(proxy) as one, Client(proxy) as two:
        assert one.ask(b"a") == b"a"
        assert two.ask(b"b") == b"b"
        assert proxy.connections == 2
    eventually(lambda: proxy.connections == 0)


def test_its_end_takes_along_what_was_just_accepted(echo: Echo) -> None:
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        for _ in range(5):
            # Given a proxy whose loop has much to accept at once
            proxy, held = FaultyProxy(echo.url), threading.Event()
            proxy.loop.call_soon_threadsafe(held.wait)
            with contextlib.ExitStack() as clients:
                for _ in range(20):
                    clients.enter_context(Client(proxy))
                # When it ends in the middle of that
                held.set()
                proxy.close()
        gc.collect()
    # Then no connection is left open
    assert [str(one.message) for one in complaints] == []


def test_a_cut_ends_connections_and_takes_new_ones(proxy: FaultyProxy, echo: Echo) -> None:
    with Client(proxy) as one:
        one.ask(b"a")
        proxy.cut()
        assert one.answer() == b""
        eventually(lambda: echo.ended == 1)
    with Client(proxy) as two:
        assert two.ask(b"b") == b"b"


def test_refused_until_healed(proxy: FaultyProxy) -> None:
    with Client(proxy) as one:
        one.ask(b"a")
        proxy.refuse()
        assert one.answer() == b""
    with pytest.raises(ConnectionRefusedError):
        Client(proxy)
    proxy.heal()
    with Client(proxy) as two:
        assert two.ask(b"b") == b"b"


def test_a_black_hole_keeps_connections_and_delivers_late(proxy: FaultyProxy, echo: Echo) -> None:
    with Client(proxy) as one:
        one.ask(b"a")
        proxy.drop()
        with Client(proxy) as two, Client(proxy) as leaver:
            for client in (one, two, leaver):
                client.send(b"x")
                assert client.silent()
            leaver.__exit__()
            assert echo.heard == b"a" and echo.ended == 0
            proxy.heal()
            assert one.answer() == two.answer() == b"x"
            eventually(lambda: echo.ended == 1)  # the server hears of the end when the network does
            assert one.ask(b"y") == b"y"


def test_replies_alone_can_be_held(proxy: FaultyProxy, echo: Echo) -> None:
    with Client(proxy) as one:
        proxy.drop(requests=False)
        one.send(b"x")
        eventually(lambda: echo.heard == b"x")
        assert one.silent()
        proxy.heal()
        assert one.answer() == b"x"


def test_a_half_open_connection_stays_silent_for_good(proxy: FaultyProxy, echo: Echo) -> None:
    with Client(proxy) as one, Client(proxy) as other:
        assert one.ask(b"a") == other.ask(b"a") == b"a"
        proxy.half_open()
        one.send(b"x")
        other.__exit__()
        with Client(proxy) as two:
            assert two.ask(b"b") == b"b"
        proxy.heal()
        assert one.silent()
        eventually(lambda: echo.ended == 1)  # only the one that worked
        assert echo.heard == b"aab"


def test_a_delay_counts_both_ways_and_keeps_the_order(proxy: FaultyProxy) -> None:
    with Client(proxy) as one:
        proxy.delay(0.1)
        started = time.monotonic()
        one.send(b"a")
        time.sleep(0.02)
        proxy.delay(0.05)
        one.send(b"b")
        found = one.answer()
        assert time.monotonic() - started >= 0.15
        while len(found) < 2:
            found += one.answer()
        assert found == b"ab"
        proxy.heal()
        assert one.ask(b"c") == b"c"


def test_one_reply_or_command_is_lost(proxy: FaultyProxy, echo: Echo) -> None:
    for lose, heard in ((proxy.lose_reply_with, True), (proxy.lose_reply_to, True), (proxy.lose_command, False)):
        echo.heard = b""
        with Client(proxy) as one:
            lose(b"bad")
            assert one.ask(b"good") == b"good"
            assert one.ask(b"so bad!") == b""
            assert echo.heard == (b"goodso bad!" if heard else b"good")
        with Client(proxy) as one:
            assert one.ask(b"so bad!") == b"so bad!"
    assert proxy.lost == 3


def test_cut_off_after_and_inside_a_request(proxy: FaultyProxy, echo: Echo) -> None:
    with Client(proxy) as one:
        proxy.cut_after_request(b"bad")
        assert one.ask(b"so bad!!") == b""
        eventually(lambda: echo.heard == b"so bad!!")
        eventually(lambda: echo.ended == 1)
    with Client(proxy) as one:
        proxy.cut_inside_request(b"bad")
        assert one.ask(b"so bad!!") == b""
        eventually(lambda: echo.heard == b"so bad!!so b")
        eventually(lambda: echo.ended == 2)


def test_a_reply_that_comes_late(proxy: FaultyProxy) -> None:
    with Client(proxy) as one, Client(proxy) as two:
        proxy.delay_reply_to(b"bad", 0.15)
        one.send(b"bad")
        assert one.silent()
        assert two.ask(b"b") == b"b"
        assert one.answer() == b"bad"


def test_it_carries_thousands_of_commands_a_second(proxy: FaultyProxy) -> None:
    with Client(proxy) as one:
        for _ in range(2_000):
            assert one.ask(b"x" * 300) == b"x" * 300
