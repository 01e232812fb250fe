"""``redis://``: outcomes in Redis, for several hosts. One hash per message, gone when the retention ends.

How durable a write is, the server's own persistence decides; the fsync policy does not apply.
"""

from __future__ import annotations

import errno
import threading
import weakref
from collections.abc import Sequence

import msgspec
import redis

from taskstream import keys
from taskstream.broker.script import Script
from taskstream.connection import PRODUCER, open_pool
from taskstream.display import display_url
from taskstream.errors import ResultUnavailable
from taskstream.link import Link
from taskstream.results.base import Outcome
from taskstream.results.encoding import from_json, pack, to_json, unpack
from taskstream.results.errors import ResultStoreError

_KEEP_OUTCOME = Script("keep_outcome")

_PORTION = 500
"""Outcomes per round trip, so that neither side buffers much."""


class RedisStore:
    """See the module. Each thread (under gevent: each greenlet) has a connection of its own.

    A pool would hand a connection from one native thread to another, which gevent's sockets do not bear.
    """

    def __init__(self, url: str, *, retention: float) -> None:
        """``retention`` in seconds. Raises ConfigError for a URL that cannot be used; connects later."""
        open_pool(url, PRODUCER).disconnect()
        self.url = url
        self._display_url = display_url(url)
        self._ttl_ms = int(retention * 1000)
        self._local = threading.local()
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()

    def write(self, outcomes: Sequence[Outcome]) -> None:
        """Keep a batch, 500 a round trip. Raises ResultStoreError; writing it again is safe."""
        runs = [
            ([keys.outcomes(outcome.id)], [outcome.group, outcome.delivery, _record(outcome), self._ttl_ms])
            for outcome in outcomes
        ]
        try:
            for start in range(0, len(runs), _PORTION):
                _KEEP_OUTCOME.run_many(self._link().calls, runs[start : start + _PORTION])
        except (redis.RedisError, OSError) as error:
            text = str(error) or type(error).__name__
            raise ResultStoreError(
                errno.EIO, f"result store {self._display_url} did not keep a batch: {text}"
            ) from error

    def read(self, message_id: str, group: str | None = None) -> list[Outcome]:
        """The outcomes of a message. Raises ResultUnavailable."""
        try:
            if group is None:
                reply = self._link().call("HVALS", keys.outcomes(message_id))
            else:
                reply = [self._link().call("HGET", keys.outcomes(message_id), group)]
            return [_outcome(record.partition(b" ")[2]) for record in reply if record is not None]
        except (redis.RedisError, OSError, msgspec.DecodeError) as error:
            text = str(error) or type(error).__name__
            raise ResultUnavailable(f"result store {self._display_url} cannot be read: {text}") from error

    def forget(self, message_id: str, group: str | None = None) -> None:
        """Delete the outcomes of a message. Raises ResultUnavailable."""
        name = keys.outcomes(message_id)
        try:
            self._link().call(*(("DEL", name) if group is None else ("HDEL", name, group)))
        except (redis.RedisError, OSError) as error:
            text = str(error) or type(error).__name__
            raise ResultUnavailable(f"result store {self._display_url} cannot be reached: {text}") from error

    def sweep(self, now_ms: int, limit: int = 10_000) -> int:
        """Nothing to do: Redis ends every record by itself."""
        return 0

    def close(self) -> None:
        """Close the connections of all threads."""
        for link in list(self._links):
            link.close()

    def _link(self) -> Link:
        link: Link | None = getattr(self._local, "link", None)
        if link is None:
            link = self._local.link = Link(self.url, PRODUCER)
            self._links.add(link)
        return link


def _record(outcome: Outcome) -> bytes:
    """The outcome as JSON, which begins with a brace; a large one compressed, which begins with zlib's mark."""
    text = to_json(outcome)
    return pack(text) or text


def _outcome(record: bytes) -> Outcome:
    return from_json(record if record.startswith(b"{") else unpack(record))
