"""A TCP proxy before a Redis server, with every fault of a network in it: cut, refused, silent, slow, half-done.

It runs on an event loop in a thread of its own and carries thousands of commands a second. Each method returns when
the fault is in place; a fault of the network lasts until ``heal()``, one that waits for a command happens once.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit


class FaultyProxy:
    """Passes everything on until told otherwise. ``url`` is where it listens, ``lost`` counts faults that waited."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        # Bound and not listening: keeps the port ours while connections are refused.
        self._reserved = _bound(0)
        self._port: int = self._reserved.getsockname()[1]
        credentials = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        self.url = f"redis://{credentials}127.0.0.1:{self._port}{parts.path}"
        self.lost = 0
        self._rules: list[Rule] = []
        self._pairs: set[Pair] = set()
        self._delay_s = 0.0
        self._holds = (False, False)
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._await(self._listen())

    # -- faults of the network, until heal() ---------------------------------------------------------------

    def cut(self) -> None:
        """End all connections now; new ones are welcome."""
        self._do(self._cut_all)

    def refuse(self) -> None:
        """End all connections and refuse new ones."""
        self._await(self._stop_listening())
        self._do(self._cut_all)

    def drop(self, *, requests: bool = True, replies: bool = True) -> None:
        """A black hole: connections stay, new ones are accepted, nothing arrives, not even that an end was closed.

        With ``requests=False`` only replies are held. ``heal()`` delivers late what was held, as TCP does.
        """
        self._do(lambda: self._hold(requests, replies))

    def half_open(self) -> None:
        """The connections there are fall silent for good, on both sides and past ``heal()``; new ones work."""

        def forget() -> None:
            for pair in self._pairs:
                pair.forgotten = True

        self._do(forget)

    def delay(self, seconds: float) -> None:
        """Everything takes ``seconds`` more in each direction."""

        def slow() -> None:
            self._delay_s = seconds

        self._do(slow)

    def heal(self) -> None:
        """No more faults, waiting ones included; what ``drop()`` held arrives now."""

        def mend() -> None:
            self._rules.clear()
            self._delay_s = 0.0
            self._hold(False, False)

        self._do(mend)
        if self._listener is None:
            self._await(self._listen())

    # -- faults that wait for a command, once --------------------------------------------------------------

    def lose_reply_with(self, content: bytes) -> None:
        """The next reply that contains ``content`` never arrives, and the connection ends."""
        self._do(lambda: self._rules.append(Rule(content, "reply")))

    def lose_reply_to(self, command: bytes) -> None:
        """The reply to the next command that contains ``command`` never arrives; the connection ends when it would."""
        self._do(lambda: self._rules.append(Rule(command, "lose reply")))

    def lose_command(self, command: bytes) -> None:
        """The next command that contains ``command`` never arrives, and the connection ends."""
        self._do(lambda: self._rules.append(Rule(command, "swallow")))

    def cut_after_request(self, command: bytes) -> None:
        """The server gets and answers the next command with ``command``; its sender is cut off at once."""
        self._do(lambda: self._rules.append(Rule(command, "cut after")))

    def cut_inside_request(self, command: bytes) -> None:
        """Half of what is sent with the next ``command`` arrives, then the connection ends."""
        self._do(lambda: self._rules.append(Rule(command, "cut inside")))

    def delay_reply_to(self, command: bytes, seconds: float) -> None:
        """The reply to the next command with ``command`` comes ``seconds`` later, and all after it."""
        self._do(lambda: self._rules.append(Rule(command, "delay reply", seconds)))

    @property
    def connections(self) -> int:
        """How many clients have one open."""
        return sum(not pair.near.closed for pair in list(self._pairs))

    def close(self) -> None:
        """End everything."""
        if self._thread.is_alive():
            self._await(self._stop_listening())
            self._await(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
            self._reserved.close()

    # -- on the loop ---------------------------------------------------------------------------------------

    def _do(self, action: Callable[[], None]) -> None:
        async def run() -> None:
            action()

        self._await(run())

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._listener = await self._loop.create_server(lambda: Pair(self).near, sock=_bound(self._port), backlog=256)

    async def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            # What was accepted and is not the server's yet when it closes, asyncio would leave open.
            for one in listener.sockets:
                self._loop.remove_reader(one.fileno())
            await asyncio.sleep(0)
            listener.close()

    def _cut_all(self) -> None:
        for pair in list(self._pairs):
            pair.cut()

    async def _end(self) -> None:
        # What was just accepted is no pair yet, but a task of the loop.
        while self._pairs or len(asyncio.all_tasks()) > 1:
            self._cut_all()
            await asyncio.sleep(0.001)

    def _hold(self, requests: bool, replies: bool) -> None:
        self._holds = (requests, replies)
        for pair in list(self._pairs):
            pair.near.pump()
            pair.far.pump()

    async def connect(self, pair: Pair) -> None:
        """Open the server's side of ``pair``."""
        self._pairs.add(pair)
        try:
            await self._loop.create_connection(lambda: pair.far, *self._target)
        except OSError:
            pair.far.closed = True
            pair.cut()

    def ended(self, pair: Pair) -> None:
        """Both of its sides are closed."""
        self._pairs.discard(pair)

    def holds(self, side: Side) -> bool:
        """Whether what ``side`` received goes nowhere now."""
        return side.pair.forgotten or self._holds[side.is_server]

    def rule_for(self, data: bytes, *, reply: bool) -> Rule | None:
        """The first waiting fault that ``data`` sets off; it waits no more."""
        for rule in self._rules:
            if (rule.kind == "reply") == reply and rule.content in data:
                self._rules.remove(rule)
                self.lost += 1
                return rule
        return None

    @property
    def has_rules(self) -> bool:
        """Whether any fault waits for a command or reply."""
        return bool(self._rules)

    @property
    def delay_s(self) -> float:
        """What every piece of data takes more."""
        return self._delay_s

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it all runs."""
        return self._loop


class Rule:
    """A fault that waits for ``content``."""

    def __init__(self, content: bytes, kind: str, seconds: float = 0.0) -> None:
        self.content = content
        self.kind = kind
        self.seconds = seconds


class Pair:
    """One connection: the client's side and the server's."""

    def __init__(self, proxy: FaultyProxy) -> None:
        self.proxy = proxy
        self.near = Side(self, is_server=False)
        self.far = Side(self, is_server=True)
        self.forgotten = False
        self.loses_next_reply = False
        self.reply_delay_s = 0.0

    def cut(self) -> None:
        """End both sides now."""
        for side in (self.near, self.far):
            if side.transport is not None:
                side.transport.abort()


class Side(asyncio.Protocol):
    """What one side sends waits in ``queue`` as (when it may pass on, data, or None for the end)."""

    def __init__(self, pair: Pair, *, is_server: bool) -> None:
        self.pair = pair
        self.is_server = is_server
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.queue: deque[tuple[float, bytes | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def other(self) -> Side:
        """Where it goes."""
        return self.pair.near if self.is_server else self.pair.far

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if not self.is_server:
            self._connecting = self.pair.proxy.loop.create_task(self.pair.proxy.connect(self.pair))
        else:
            self.other.pump()

    def data_received(self, data: bytes) -> None:
        self._put(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self.other.closed:
            self.pair.proxy.ended(self.pair)
        self._put(None)

    def _put(self, data: bytes | None) -> None:
        proxy = self.pair.proxy
        delay_s = proxy.delay_s + (self.pair.reply_delay_s if self.is_server else 0.0)
        if not self.queue and not delay_s and self.other.transport is not None and not proxy.holds(self):
            self._pass(data)
            return
        # Never before what came before it, when the delay was made shorter meanwhile.
        due = max(proxy.loop.time() + delay_s, self.queue[-1][0] if self.queue else 0.0)
        self.queue.append((due, data))
        self.pump()

    def pump(self) -> None:
        """Pass on what may."""
        proxy = self.pair.proxy
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.queue and self.other.transport is not None and not proxy.holds(self):
            wait = self.queue[0][0] - proxy.loop.time()
            if wait > 0 and proxy.delay_s + self.pair.reply_delay_s > 0:
                self._timer = proxy.loop.call_later(wait, self.pump)
                return
            self._pass(self.queue.popleft()[1])

    def _pass(self, data: bytes | None) -> None:
        sink = self.other.transport
        assert sink is not None
        pair = self.pair
        if data is None:
            # A server that is still to answer does not learn that nobody waits.
            if self.is_server or not pair.loses_next_reply:
                sink.close()
            return
        if self.is_server and pair.loses_next_reply:
            pair.cut()
            return
        if sink.is_closing():
            return
        if self.is_server:
            if pair.proxy.has_rules and pair.proxy.rule_for(data, reply=True):
                pair.cut()
                return
        elif pair.proxy.has_rules and (rule := pair.proxy.rule_for(data, reply=False)):
            if rule.kind == "swallow":
                pair.cut()
                return
            if rule.kind == "cut inside":
                sink.write(data[: len(data) // 2])
                sink.close()
                if self.transport is not None:
                    self.transport.abort()
                return
            if rule.kind == "delay reply":
                pair.reply_delay_s = rule.seconds
            else:
                pair.loses_next_reply = True
            if rule.kind == "cut after" and self.transport is not None:
                sink.write(data)
                self.transport.abort()
                return
        sink.write(data)


def _bound(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", port))
    return found
