"""Puts messages on streams. Never sends one twice on its own: a lost reply is the caller's to decide about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import redis

from taskstream import keys
from taskstream.broker.packing import pack_xadd
from taskstream.broker.script import Script, soon_call, wake_call
from taskstream.connection import PRODUCER, broker_errors, error_text, open_pool, passing, translate
from taskstream.display import display_url
from taskstream.errors import BrokerUnavailable, QueueFull, TaskstreamError
from taskstream.handler import QUEUE_GROUP
from taskstream.link import LinkPool, first_error, pack_commands
from taskstream.message import PRIORITY, Message, fields_of

REMEMBER_PUBLISHED_S = 24 * 3600
"""How long the server knows what was published under a key."""

CHUNK = 100
"""Messages in one run of the script, so that the server is never busy with one for long (0.6 ms)."""

SAID_KEYS = 5
"""Keys of one script that an error names at most."""

_PUBLISH = Script("publish")


class Envelope(NamedTuple):
    """A message and where it goes.

    ``uniques``: it is published at most once under each of them (``keys.unique_id``, ``unique_key``, ``unique_call``).
    ``max_length``: entries the stream may have, None for any number. ``delay_ms`` (from when it is sent) or ``due_ms``
    (ms since the epoch): not readable before that, by the server's clock. ``ordering_key``: readable when the one
    before it of that key is done; the message's header ORDER_HEADER says the same to whoever ends it. The last three
    are for task queues only, whose one group is QUEUE_GROUP.
    """

    stream: str
    message: Message
    uniques: tuple[str, ...] = ()
    max_length: int | None = None
    delay_ms: int | None = None
    due_ms: int | None = None
    ordering_key: str | None = None

    @property
    def plain(self) -> bool:
        """Whether one XADD is all there is to it, but for its ``max_length``."""
        return (
            not self.uniques
            and self.delay_ms is None
            and self.due_ms is None
            and self.ordering_key is None
            and self.message.priority == PRIORITY
        )


class Sent(NamedTuple):
    """What became of several envelopes.

    ``ids`` goes by envelope: the id under which it is in the stream, None where that is not certain. ``error`` is
    why there is a None; with QueueFull, what has an id comes before what has none.
    """

    ids: list[str | None]
    error: TaskstreamError | None = None


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

    def publish(self, stream: str, message: Message, max_length: int | None = None) -> None:
        """Put one message on ``stream``: exactly one XADD, or one script that looks at the length first.

        Raises BrokerUnavailable, with ``maybe_sent=True`` where only the reply is missing; QueueFull if the stream
        has ``max_length`` entries already.
        """
        if max_length is None:
            reply = self._exchange_packed(pack_xadd(stream, message), 1)[0]
            if type(reply) is not bytes and isinstance(reply, redis.ResponseError):
                raise self._translate(reply, [("XADD", stream)], [reply]) from reply
        else:
            self._run([Envelope(stream, message, (), max_length)])

    def send(self, envelope: Envelope) -> str:
        """Publish one message by one XADD where that is all there is to it; return the id it is there under.

        Raises as ``publish`` does.
        """
        if envelope.plain:
            self.publish(envelope.stream, envelope.message, envelope.max_length)
            return envelope.message.id
        return self._run([envelope])[0]

    def publish_once(self, stream: str, message: Message, *uniques: str, max_length: int | None = None) -> str:
        """Publish unless something was published under one of ``uniques`` in the last 24 h; return the id of that.

        Safe to repeat after ``maybe_sent``. Raises as ``publish`` does.
        """
        return self._run([Envelope(stream, message, uniques, max_length)])[0]

    def publish_many(self, items: Iterable[Envelope | tuple[str, Message]], *, finishing: bool = False) -> list[str]:
        """Publish several in order; return their ids. Callers send at most 500 at once.

        One round trip, unless some have a ``max_length``: then one for each 100 of a stream, and the first that
        finds no room ends it. ``finishing``: envelopes that are not plain are taken by a server without memory too,
        as what follows from work that leaves it.

        Raises as ``publish`` does; ``sent`` of the error has the ids of those that are in for certain.
        """
        ids, error = self.try_many([Envelope(*item) for item in items], finishing=finishing)
        certain = [found for found in ids if found is not None]
        if isinstance(error, BrokerUnavailable | QueueFull):
            error.sent = certain
        if error is not None:
            raise error
        return certain

    def try_many(self, envelopes: Sequence[Envelope], *, in_order: bool = False, finishing: bool = False) -> Sent:
        """``publish_many`` that says what became of each envelope instead of raising.

        ``in_order``: what has an id comes before what has none, whatever the error is; at the price of the round
        trips of a ``max_length``.
        """
        if in_order or any(envelope.max_length is not None for envelope in envelopes):
            return self._one_by_one(envelopes, finishing)
        if not all(envelope.plain for envelope in envelopes):
            runs = list(_runs(envelopes))
            # The text goes along, so that no run can find it missing: others would have to be repeated then.
            load = ("SCRIPT", "LOAD", _PUBLISH.source)
            commands = [load, *(_PUBLISH.command(*_script_call(run, finishing)) for run in runs)]
            return self._pipelined(commands, [0, *map(len, runs)])
        if not envelopes:
            return Sent([])
        try:
            replies = self._exchange_packed(
                b"".join([pack_xadd(one.stream, one.message) for one in envelopes]), len(envelopes)
            )
        except TaskstreamError as error:
            return Sent([None] * len(envelopes), error)
        ids: list[str | None] = [one.message.id for one in envelopes]
        failed = first_error(replies)
        if failed is None:
            return Sent(ids)
        for index, reply in enumerate(replies):
            if isinstance(reply, redis.ResponseError):
                ids[index] = None
        return self._partly(failed, [("XADD", one.stream) for one in envelopes], replies, ids)

    def _pipelined(self, commands: list[tuple[Any, ...]], sizes: list[int]) -> Sent:
        """Run the script several times in one round trip; each publishes as many as ``sizes`` says."""
        total = sum(sizes)
        try:
            replies = self._exchange(commands)
        except TaskstreamError as error:
            return Sent([None] * total, error)
        ids: list[str | None] = []
        for reply, size in zip(replies, sizes, strict=True):
            if size:
                ids += [None] * size if isinstance(reply, redis.ResponseError) else _texts(reply[1])
        failed = first_error(replies)
        return Sent(ids) if failed is None else self._partly(failed, commands, replies, ids)

    def _partly(
        self,
        failed: redis.ResponseError,
        commands: list[tuple[Any, ...]],
        replies: list[Any],
        ids: list[str | None],
    ) -> Sent:
        """What became of messages of which some were refused, the first with ``failed``."""
        total = len(ids)
        done = sum(found is not None for found in ids)
        if done and passing(failed):
            text = f"broker {self.display_url} took {done} of {total} messages, then: {failed}"
            return Sent(ids, BrokerUnavailable(text, maybe_sent=True))
        return Sent(ids, self._translate(failed, commands, replies))

    def _one_by_one(self, envelopes: Sequence[Envelope], finishing: bool) -> Sent:
        """One round trip per run, because none may overtake one that found no room."""
        ids: list[str | None] = []
        for run in _runs(envelopes):
            try:
                ids += self._run(run, finishing)
            except TaskstreamError as error:
                if isinstance(error, QueueFull):
                    ids += error.sent
                elif isinstance(error, BrokerUnavailable):
                    error.maybe_sent |= bool(ids)
                return Sent([*ids, *[None] * (len(envelopes) - len(ids))], error)
        return Sent(ids)

    def _run(self, run: Sequence[Envelope], finishing: bool = False) -> list[str]:
        """Publish envelopes of one stream and limit by one script."""
        length, found = _PUBLISH.run(self.call, *_script_call(run, finishing))
        ids = _texts(found)
        if length < 0:
            return ids
        stream, limit = run[0].stream, run[0].max_length or 0
        raise QueueFull(
            f"stream {stream} is full: it has {length} entries and its max_length is {limit}; try again when workers "
            "have caught up",
            stream=stream,
            length=length,
            limit=limit,
            sent=ids,
        )

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

    def calls(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send several commands in one round trip; raises the first error, as ``call`` does."""
        return self._round_trip(commands)

    def close(self) -> None:
        """Close every pooled connection."""
        self._links.close()
        self._pool.disconnect()

    def _exchange(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands once and read their replies, error replies among them as exceptions."""
        return self._exchange_packed(pack_commands(commands), len(commands))

    def _exchange_packed(self, packed: bytes, count: int) -> list[Any]:
        """The same for ``count`` commands that are packed already."""
        try:
            link = self._links.take()
        except (redis.RedisError, OSError) as error:
            raise translate(error, self.display_url, sent=False) from error
        sent = False
        try:
            link.connect()
            sent = True
            return link.replies_to(packed, count)
        except (redis.RedisError, OSError) as error:
            raise translate(error, self.display_url, sent=sent) from error
        finally:
            self._links.give_back(link)

    def _round_trip(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send commands once and read their replies; NoScriptError passes through, the rest is translated."""
        replies = self._exchange(commands)
        failed = first_error(replies)
        if failed is None:
            return replies
        if isinstance(failed, redis.exceptions.NoScriptError):
            raise failed
        raise self._translate(failed, commands, replies) from failed

    def _translate(
        self, error: redis.ResponseError, commands: list[tuple[Any, ...]], replies: list[Any]
    ) -> TaskstreamError:
        """What to raise for the reply ``error``; one about a wrong kind of key names the key."""
        touched = _touched(next(one for one, reply in zip(commands, replies, strict=True) if reply is error))
        if len(touched) > 1 and error_text(error).startswith("WRONGTYPE"):
            with contextlib.suppress(TaskstreamError):
                found = self._exchange([("TYPE", name) for name in touched])
                wrong = [
                    name for name, kind in zip(touched, found, strict=True) if kind not in (b"none", keys.kind(name))
                ]
                touched = wrong or touched
        return translate(error, self.display_url, sent=False, touched=touched[:SAID_KEYS])


def _touched(command: tuple[Any, ...]) -> list[str]:
    """The keys of a command: those of a script, the one of every other."""
    if command[0] in ("EVALSHA", "EVAL"):
        return list(dict.fromkeys(map(str, command[3 : 3 + int(command[2])])))
    return [str(name) for name in command[2 if command[0] in ("XINFO", "XGROUP") else 1 :][:1]]


def _runs(envelopes: Sequence[Envelope]) -> Iterator[Sequence[Envelope]]:
    """Neighbours of one stream and limit, at most CHUNK together."""
    start = 0
    for end in range(1, len(envelopes) + 1):
        first = envelopes[start]
        if (
            end == len(envelopes)
            or end - start == CHUNK
            or (first.stream, first.max_length) != (envelopes[end].stream, envelopes[end].max_length)
        ):
            yield envelopes[start:end]
            start = end


def _script_call(run: Sequence[Envelope], finishing: bool) -> tuple[list[str], list[Any]]:
    """Keys and arguments of publish.lua."""
    stream = run[0].stream
    names = [stream]
    arguments: list[Any] = [run[0].max_length or 0, REMEMBER_PUBLISHED_S, int(finishing)]
    for envelope in run:
        once = [unique for unique in envelope.uniques if not keys.is_call(unique)]
        calls = [unique for unique in envelope.uniques if keys.is_call(unique)]
        names += [keys.published(stream, unique) for unique in (*once, *calls)]
        said: list[Any] = ["unique", ""] * len(calls)
        if envelope.due_ms is not None or envelope.delay_ms is not None:
            absolute = envelope.due_ms is not None
            said += ("soon", soon_call(stream, QUEUE_GROUP))
            said += ("at", envelope.due_ms) if absolute else ("in", envelope.delay_ms)
            names.append(keys.delayed(stream, QUEUE_GROUP))
        if envelope.ordering_key is not None:
            said += ("order", "")
            names += (keys.order(stream, envelope.ordering_key), keys.ordered(stream))
        if envelope.message.priority != PRIORITY:
            said += ("rank", wake_call(stream, QUEUE_GROUP))
            names.append(keys.ranked(stream, QUEUE_GROUP))
        fields = fields_of(envelope.message)
        arguments += (len(once), envelope.message.id, len(said) // 2, *said, len(fields), *fields)
    return names, arguments


def _texts(found: Sequence[bytes]) -> list[str]:
    return [str(one, "utf-8") for one in found]
