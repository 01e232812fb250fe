"""Connections as the hot paths use them: one at a time, or a few shared, without a client's cost per command.

The client library connects, authenticates and reads; commands are packed by hiredis directly and go over one
socket in one piece. Methods raise the client library's errors.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis
import redis
from redis.connection import AbstractConnection, ConnectionInterface

from taskstream.connection import CONSUMER, Profile, open_pool

_pack = hiredis.pack_command

_ELSEWHERE = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError)
"""Replies of a server that is no master any more. A name or a Sentinel may lead to another one by now."""

_HUNG_UP = "Protocol error"
"""What a reply begins with after which the server closes the connection."""

STALE_S = 1.0
"""A shared connection that rested this long is looked at before it is used: the server may have closed it."""


class Link:
    """One connection, used by one greenlet or thread at a time.

    Connects lazily, and again after ``close()``; any error leaves it closed, because a reply that comes late
    would be taken for the answer to a later command.
    """

    def __init__(self, url: str, profile: Profile = CONSUMER) -> None:
        self._pool = open_pool(url, profile)
        # The same object for life, connected anew: a pool keeps every connection it ever made.
        self._made: ConnectionInterface | None = None
        self._connection: ConnectionInterface | None = None
        self._read: Callable[[], Any]
        self.generation = 0
        """Counts connections made, so that a caller sees that one was replaced."""
        self.rested_since = 0.0
        """When it was last given back to a LinkPool (monotonic s)."""
        self.shelf: _Shelf | None = None
        """Where a LinkPool keeps it."""

    def call(self, *command: Any) -> Any:
        """Send one command and return its reply."""
        reply = self.replies((command,))[0]
        if isinstance(reply, redis.RedisError):
            raise reply
        return reply

    def calls(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one round trip; return their replies. The first error reply is raised."""
        replies = self.replies(commands)
        error = first_error(replies)
        if error is not None:
            raise error
        return replies

    def replies(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands in one round trip; return their replies, error replies among them as exceptions."""
        return self.replies_to(pack_commands(commands), len(commands))

    def replies_to(self, packed: bytes, count: int) -> list[Any]:
        """The same for ``count`` commands that are packed already."""
        connection = self._connection or self.connect()
        read = self._read
        try:
            connection.send_packed_command([packed], check_health=False)
            found: list[Any] = []
            moved = False
            for _ in range(count):
                try:
                    reply = read()
                except redis.exceptions.BusyLoadingError as error:
                    # The client library takes this reply for a broken connection, but it says that nothing was done.
                    reply = redis.ResponseError(f"LOADING {error}")
                except redis.ResponseError as error:
                    reply = error
                found.append(reply)
                if type(reply) is not bytes and isinstance(reply, redis.ResponseError):
                    moved |= isinstance(reply, _ELSEWHERE) or str(reply).startswith(_HUNG_UP)
        except BaseException:
            self.close()
            raise
        if moved:
            self.close()
        return found

    def connect(self) -> ConnectionInterface:
        """Connect, unless that was done."""
        if self._connection is not None:
            return self._connection
        connection = self._made = self._made or self._pool.make_connection()
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        self._connection = connection
        self._read = _reader_of(connection)
        self.generation += 1
        return connection

    def drop_if_stale(self) -> None:
        """Close a connection that the server has closed already, or on which something unasked for arrived."""
        if self._connection is not None:
            try:
                stale = self._connection.can_read(timeout=0)
            except (redis.RedisError, OSError):
                stale = True
            if stale:
                self.close()

    @property
    def connected(self) -> bool:
        """Whether there is a connection that no error has ended."""
        return self._connection is not None

    def close(self) -> None:
        """End the connection; the next command opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


class LinkPool:
    """At most ``profile.max_connections`` links shared by threads or greenlets, the last used first.

    Fork-safe: a child process starts with none. Where gevent has patched sockets, each native thread has links of its
    own: a socket belongs to the hub of the thread that made it, and another thread's would wait for it in vain.
    """

    def __init__(self, url: str, profile: Profile) -> None:
        self._url = url
        self._profile = profile
        open_pool(url, profile)  # refuses a URL that cannot be used, now
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._apart = socket.socket.__module__.startswith("gevent")
        self._shelves: dict[int, _Shelf] = {}

    def take(self) -> Link:
        """A link for the caller alone, to be given back. Raises redis.TimeoutError if all stay in use."""
        if self._pid != os.getpid():
            self._start_afresh()
        thread = threading.get_native_id() if self._apart else 0
        shelf = self._shelves.get(thread) or self._shelves.setdefault(thread, _Shelf(self._url, self._profile))
        return shelf.take()

    def give_back(self, link: Link) -> None:
        """The caller, in the thread that took it, is done with it."""
        assert link.shelf is not None
        link.shelf.give_back(link)

    def close(self) -> None:
        """Close the links that rest now."""
        for shelf in list(self._shelves.values()):
            shelf.close()


class _Shelf:
    """The links of a pool that any of its threads may use."""

    def __init__(self, url: str, profile: Profile) -> None:
        self._url = url
        self._profile = profile
        self._resting: list[Link] = []
        self._made = 0
        self._waiting = 0
        self._changed = threading.Condition()

    def take(self) -> Link:
        try:
            link = self._resting.pop()
        except IndexError:
            return self._take_or_wait()
        if time.monotonic() - link.rested_since > STALE_S:
            link.drop_if_stale()
        return link

    def give_back(self, link: Link) -> None:
        if not link.connected:
            # An error ended it. What ended it, a restart or a network, has most likely ended the others too.
            self.close()
        link.rested_since = time.monotonic()
        self._resting.append(link)
        if self._waiting:
            with self._changed:
                self._changed.notify()

    def close(self) -> None:
        for link in list(self._resting):
            link.close()

    def _take_or_wait(self) -> Link:
        deadline = time.monotonic() + self._profile.socket_timeout
        with self._changed:
            if self._made < self._profile.max_connections:
                self._made += 1
                link = Link(self._url, self._profile)
                link.shelf = self
                return link
            self._waiting += 1
            try:
                while True:
                    # Counted as waiting before looking, so that whoever gives one back in between tells.
                    try:
                        return self._resting.pop()
                    except IndexError:
                        left = deadline - time.monotonic()
                        if left <= 0 or not self._changed.wait(left):
                            raise redis.TimeoutError(
                                f"all {self._made} connections stayed in use for {self._profile.socket_timeout:g} s"
                            ) from None
            finally:
                self._waiting -= 1


def pack_commands(commands: Iterable[tuple[Any, ...]]) -> bytes:
    """The bytes of commands."""
    return b"".join(map(_pack, commands))


def _reader_of(connection: ConnectionInterface) -> Callable[[], Any]:
    """What reads one reply; it returns error replies or raises them.

    The connection's own method makes texts for errors that are not there and raises what is to be kept, which takes
    half of all the time that a reply does. Left out where it is what the client library says: others mean something.
    """
    parser = getattr(connection, "_parser", None)
    if type(connection).read_response is AbstractConnection.read_response and parser is not None:
        read: Callable[[], Any] = parser.read_response
        return read
    return functools.partial(connection.read_response, disconnect_on_error=False)


def first_error(replies: Iterable[Any]) -> redis.ResponseError | None:
    """The first error among replies."""
    for reply in replies:
        if type(reply) is not bytes and isinstance(reply, redis.ResponseError):
            return reply
    return None
