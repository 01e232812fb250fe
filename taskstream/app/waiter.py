"""Wakes whoever waits for a result: one pub/sub connection and one thread per process, however many wait.

Only ever a hint: whoever is woken reads the result store, and reads it every second anyway, so nothing is lost while
Redis is away. The thread starts with the first waiter and ends a while after the last; started in a process that
gevent has patched, it is a greenlet.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import redis

from taskstream import keys
from taskstream.connection import Profile, open_pool
from taskstream.errors import TaskstreamError

WATCH_S = 60
"""How long workers announce finished messages after each time they were asked to."""
RENEW_S = 20.0
LINGER_S = 60.0
"""How long the connection is kept when nobody waits."""
PING_AFTER_S = 10.0
DEAD_AFTER_S = 25.0
"""Silence after which the connection is taken for dead; it is pinged well before."""
LISTENER = Profile(socket_timeout=1.0, max_connections=1)
PAUSE_S = 1.0
"""Between two attempts to connect."""


class Watched(Protocol):
    """What the waiter needs of the broker."""

    @property
    def url(self) -> str:
        """Where to connect."""

    def watch(self, streams: Sequence[str], seconds: int) -> None:
        """Ask workers to announce finished messages. Raises BrokerUnavailable."""


class Heard:
    """What was said of several messages since it was last asked. Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._ids: deque[str] = deque()

    def hear(self, message_id: str) -> None:
        """The message may have finished."""
        self._ids.append(message_id)
        self._event.set()

    def take(self, timeout: float) -> list[str]:
        """The ids that were heard of, as soon as there is one; empty after ``timeout`` seconds."""
        self._event.wait(timeout)
        self._event.clear()
        return [self._ids.popleft() for _ in range(len(self._ids))]


class Waiter:
    """Events by message id, set when a worker says that the message is finished. Thread-safe."""

    def __init__(self, broker: Watched) -> None:
        self._broker = broker
        self._pool = open_pool(broker.url, LISTENER)
        self._lock = threading.Lock()
        self._events: dict[str, set[threading.Event | Heard]] = {}
        self._queues: set[str] = set()
        self._followed: dict[bytes, tuple[str, int]] = {}
        """Channel of a message's state → its id, and how many follow it."""
        self._connection: Any = None  # the client library's connections are not typed
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextlib.contextmanager
    def waiting(self, message_id: str, queues: Sequence[str], *, states: bool = False) -> Iterator[threading.Event]:
        """An event that is set when the message, of one of ``queues``, may have finished: read the store then.

        With ``states`` also when what it is at while it is unfinished may have changed. Read once after entering, too:
        what was before is not announced again.
        """
        event = threading.Event()
        following = self._following(message_id) if states else contextlib.nullcontext()
        with self._registered(event, (message_id,), queues), following:
            yield event

    @contextlib.contextmanager
    def waiting_for_any(self, ids: Sequence[str], queues: Sequence[str]) -> Iterator[Heard]:
        """The same for several messages: what is heard of any of them."""
        heard = Heard()
        with self._registered(heard, ids, queues):
            yield heard

    @contextlib.contextmanager
    def _registered(self, event: threading.Event | Heard, ids: Sequence[str], queues: Sequence[str]) -> Iterator[None]:
        with self._lock:
            for message_id in ids:
                self._events.setdefault(message_id, set()).add(event)
            self._listen(queues)
        try:
            yield
        finally:
            with self._lock:
                for message_id in dict.fromkeys(ids):
                    events = self._events[message_id]
                    events.discard(event)
                    if not events:
                        del self._events[message_id]

    def close(self) -> None:
        """End the thread and its connection."""
        self._closed.set()
        with self._lock:
            thread, connection = self._thread, self._connection
        if connection is not None:
            connection.disconnect()  # ends a read that is under way
        if thread is not None:
            thread.join(timeout=5.0)
        self._pool.disconnect()

    def _listen(self, queues: Sequence[str]) -> None:
        """See to it that ``queues`` are listened to. The lock is held."""
        new = [queue for queue in queues if queue not in self._queues]
        if new:
            self._queues.update(new)
            self._say("SUBSCRIBE", *map(keys.done_channel, new))
        if self._thread is None and not self._closed.is_set():
            self._thread = threading.Thread(target=self._run, name="taskstream-results", daemon=True)
            _at_exit(self)
            self._thread.start()

    @contextlib.contextmanager
    def _following(self, message_id: str) -> Iterator[None]:
        """Listen to changes of the message's state."""
        channel = keys.state(message_id)
        with self._lock:
            _, count = self._followed.get(channel.encode(), ("", 0))
            self._followed[channel.encode()] = (message_id, count + 1)
            if not count:
                self._say("SUBSCRIBE", channel)
        try:
            yield
        finally:
            with self._lock:
                _, count = self._followed.pop(channel.encode())
                if count > 1:
                    self._followed[channel.encode()] = (message_id, count - 1)
                else:
                    self._say("UNSUBSCRIBE", channel)

    def _say(self, *command: str) -> None:
        """Send a command, where there is a connection; a new one begins with all that is listened to. Lock held."""
        if self._connection is not None:
            with contextlib.suppress(redis.RedisError, OSError):  # the thread sees it too, and reconnects
                self._connection.send_command(*command)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._hear()
            except (redis.RedisError, OSError, TaskstreamError):
                pass  # waiters read the store every second until Redis is back
            finally:
                with self._lock:
                    connection, self._connection = self._connection, None
                if connection is not None:
                    connection.disconnect()
            with self._lock:
                if self._thread is None:
                    return
            self._closed.wait(PAUSE_S)

    def _hear(self) -> None:
        """Subscribe and pass on what is announced, until an error or until nobody has waited for long."""
        connection: Any = self._pool.make_connection()
        connection.connect()
        with self._lock:
            self._connection = connection
            connection.send_command("SUBSCRIBE", *map(keys.done_channel, self._queues), *self._followed)
        heard = needed = time.monotonic()
        watched = float("-inf")
        while not self._closed.is_set():
            try:
                reply = connection.read_response(disconnect_on_error=False)
            except redis.TimeoutError:
                reply = None
            now = time.monotonic()
            if self._events:
                needed = now
            elif now - needed > LINGER_S and self._retire():
                return
            followed = self._followed.get(reply[1]) if isinstance(reply, list) and len(reply) > 1 else None
            if followed is not None:
                self._wake([followed[0]])  # of a confirmation too: what changed before it was not heard
                reply = True
            confirmed = isinstance(reply, list) and reply[0] == b"subscribe"
            if confirmed or now - watched > RENEW_S:
                self._broker.watch(sorted(self._queues), WATCH_S)
                watched = now
            if reply is not None:
                heard = now
            elif now - heard > DEAD_AFTER_S:
                return
            elif now - heard > PING_AFTER_S:
                with self._lock:
                    connection.send_command("PING")
            if confirmed:
                # From here on nothing is missed; what finished before is in the store.
                self._wake(list(self._events))
            elif isinstance(reply, list) and reply[0] == b"message":
                self._wake(reply[2].decode().split())

    def _retire(self) -> bool:
        with self._lock:
            if self._events:
                return False
            self._thread = None
            self._queues.clear()
            return True

    def _wake(self, ids: Sequence[str]) -> None:
        with self._lock:
            for message_id in ids:
                for event in self._events.get(message_id, ()):
                    if isinstance(event, Heard):
                        event.hear(message_id)
                    else:
                        event.set()


def _at_exit(waiter: Waiter) -> None:
    """Close the waiter when the interpreter ends, without keeping it alive until then."""
    reference = weakref.ref(waiter)

    def close() -> None:
        found = reference()
        if found is not None:
            found.close()

    atexit.register(close)
