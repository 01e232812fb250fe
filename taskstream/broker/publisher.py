"""Puts messages on streams. Never sends one twice on its own: a lost reply is the caller's to decide about."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import redis

from taskstream import keys
from taskstream.broker.script import Script
from taskstream.connection import PRODUCER, broker_errors, display_url, open_pool, passing, translate
from taskstream.errors import BrokerUnavailable
from taskstream.link import LinkPool, first_error
from taskstream.message import Message, fields_of

REMEMBER_PUBLISHED_S = 24 * 3600
"""How long ``publish_once`` knows a key."""

_PUBLISH_ONCE = Script("publish_once")


class Publisher:
    """A producer's face of the broker. Thread-safe; connects on first use through a few pooled connections.

    Raises ConfigError for a URL that cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.display_url = display_url(url)
        self._links = LinkPool(url, PRODUCER)
        self._pool = open_pool(url, PRODUCER)
        self.client: redis.Redis = redis.Redis(connection_pool=self._pool)
        """For plain commands that move no message, pub/sub and pipelines; use it inside ``errors()``."""

    def errors(self) -> AbstractContextManager[None]:
        """Context in which the client library's errors become BrokerUnavailable or ConfigError."""
        return broker_errors(self.display_url)

    def publish(self, stream: str, message: Message) -> None:
        """Put one message on ``stream`` with exactly one XADD.

        Raises BrokerUnavailable, with ``maybe_sent=True`` where only the reply is missing.
        """
        self._round_trip([("XADD", stream, "*", *fields_of(message))])

    def publish_many(self, items: Iterable[tuple[str, Message]]) -> None:
        """Put several messages on their streams in one round trip, in order; callers send at most 500 at once.

        Raises BrokerUnavailable, with ``maybe_sent=True`` where some may be in.
        """
        commands = [("XADD", stream, "*", *fields_of(message)) for stream, message in items]
        if commands:
            self._round_trip(commands)

    def publish_once(self, stream: str, message: Message, unique: str) -> str:
        """Publish unless something was published under ``unique`` in the last 24 h; return the id of that.

        Safe to repeat after ``maybe_sent``.
        """
        return str(_PUBLISH_ONCE.run(self.call, *_once(stream, message, unique)), "utf-8")

    def publish_many_once(self, items: Iterable[tuple[str, Message, str]]) -> None:
        """``publish_once`` for several ``(stream, message, unique)`` in one round trip.

        Safe to repeat. Raises BrokerUnavailable if not all are known to be in.
        """
        _PUBLISH_ONCE.run_many(self._round_trip, (_once(*item) for item in items))

    def watch(self, streams: Iterable[str], seconds: int) -> None:
        """Ask workers to announce finished messages of ``streams`` for the next ``seconds``."""
        with self.errors():
            pipeline = self.client.pipeline(transaction=False)
            for stream in streams:
                pipeline.set(keys.watched(stream), 1, ex=seconds)
            pipeline.execute()

    def ping(self) -> None:
        """Raises BrokerUnavailable unless the server answers."""
        self._round_trip([("PING",)])

    def now_ms(self) -> int:
        """The server's clock, ms since the epoch: the only one that decides anything."""
        seconds, micros = self._round_trip([("TIME",)])[0]
        return int(seconds) * 1000 + int(micros) // 1000

    def call(self, *command: Any) -> Any:
        """Send one command over a pooled connection; errors as in ``publish``, NoScriptError as it is."""
        return self._round_trip([command])[0]

    def close(self) -> None:
        """Close every pooled connection."""
        self._links.close()
        self._pool.disconnect()

    def _round_trip(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands once and read their replies; NoScriptError passes through, the rest is translated."""
        try:
            link = self._links.take()
        except (redis.RedisError, OSError) as error:
            raise translate(error, self.display_url, sent=False) from error
        sent = False
        try:
            link.connect()
            sent = True
            replies = link.replies(commands)
        except (redis.RedisError, OSError) as error:
            raise translate(error, self.display_url, sent=sent) from error
        finally:
            self._links.give_back(link)
        failed = first_error(replies)
        if failed is None:
            return replies
        if isinstance(failed, redis.exceptions.NoScriptError):
            raise failed
        done = sum(not isinstance(reply, redis.ResponseError) for reply in replies)
        if done and passing(failed):
            raise BrokerUnavailable(
                f"broker {self.display_url} took {done} of {len(commands)} messages, then: {failed}", maybe_sent=True
            ) from failed
        raise translate(failed, self.display_url, sent=False) from failed


def _once(stream: str, message: Message, unique: str) -> tuple[list[str], list[Any]]:
    """Keys and arguments of publish_once.lua."""
    return [stream, keys.published(stream, unique)], [REMEMBER_PUBLISHED_S, message.id, *fields_of(message)]
