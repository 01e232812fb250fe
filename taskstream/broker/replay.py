"""Runs again what one consumer group of a stream has done, as far back as the stream still has it.

Used by whoever operates a group. A replayed message keeps its id and goes into the group's own stream, a bounded piece
at a time; nothing here ever reaches another group. What is not done (unread, held, delayed, dead) is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from taskstream import keys
from taskstream.broker.publisher import Publisher
from taskstream.broker.script import Script
from taskstream.errors import InvalidMessage
from taskstream.handler import QUEUE_GROUP
from taskstream.message import (
    OWN_HEADERS,
    REPLAY_HEADER,
    Message,
    fields_of,
    from_fields,
    from_fields_json,
    new_id,
)

PIECE = 100
"""Messages in one command or script call, at most: everybody else waits meanwhile, 1 ms."""

PIECE_BYTES = 4 * 1024 * 1024
"""What the messages of one piece should come to."""

SCAN_PIECE = 1_000

_REPLAY = Script("replay")


@dataclass(frozen=True)
class Done:
    """A message that the group has done and the stream still has; ``from_again``: its own stream has it."""

    from_again: bool
    entry_id: str
    message: Message
    sent_ms: int


@dataclass(frozen=True)
class Unfinished:
    """What a group has yet to do: entries by source, up to where it has read each, and ids of messages."""

    read_to: dict[bool, tuple[int, int]]
    held: set[tuple[bool, str]]
    ids: set[str]


class Replay:
    """The done messages of ``group`` on ``stream`` that were sent from ``since_ms`` to ``until_ms`` (Redis' clock).

    ``now_ms``: what comes into the group's own stream from then on is not looked at, or a replay might never end.
    Methods raise BrokerUnavailable.
    """

    def __init__(
        self, broker: Publisher, stream: str, group: str, *, since_ms: int, until_ms: int, now_ms: int
    ) -> None:
        self._broker = broker
        self._resting = [keys.ranked(stream, group), keys.delayed(stream, group)]
        self._group = group
        self._sources = {False: stream, True: keys.again(stream, group)}
        self._letters = keys.letters(stream, group)
        self._since_ms = since_ms
        self._until_ms = until_ms
        self._now_ms = now_ms
        self._mark = new_id()

    def find(self) -> Iterator[list[Done]]:
        """The messages, piece by piece, in the order in which they were first there; each once.

        What becomes unfinished while this looks is found out by ``run``.
        """
        left = self._unfinished()
        seen: set[str] = set()
        # Each message that was ever retried, given back or promoted has another entry in the group's own stream.
        for from_again, until_ms in ((False, self._until_ms), (True, self._now_ms - 1)):
            if from_again not in left.read_to:
                continue
            for rows in self._pages(self._sources[from_again], self._since_ms, until_ms):
                found = []
                for entry_id, fields in rows:
                    done = self._done(from_again, entry_id, fields, left)
                    if done is not None and done.message.id not in seen:
                        seen.add(done.message.id)
                        found.append(done)
                yield from ([found] if found else [])

    def run(self, found: Sequence[Done]) -> list[bool]:
        """Have messages of one piece run again; say of each whether it was still to be replayed."""
        reply: list[bool] = []
        for from_again in (False, True):
            arguments: list[Any] = [self._group]
            for done in found:
                if done.from_again == from_again:
                    fields = fields_of(self._renewed(done))
                    arguments += (done.entry_id, done.message.id, len(fields), *fields)
            if len(arguments) > 1:
                names = [self._sources[from_again], self._sources[True], self._letters]
                reply += [one == 1 for one in _REPLAY.run(self._broker.call, names, arguments)]
        return reply

    def _renewed(self, done: Done) -> Message:
        """The message as it was sent, with nothing of what became of it: it stands for itself alone.

        So it is no step of a workflow any more and waits for no other of its ordering key.
        """
        message = done.message
        headers = {name: value for name, value in (message.headers or {}).items() if not name.startswith(OWN_HEADERS)}
        headers[REPLAY_HEADER] = self._mark
        return Message(message.id, message.name, message.body, headers, sent_ms=done.sent_ms)

    def _done(self, from_again: bool, entry_id: bytes, fields: Sequence[bytes], left: Unfinished) -> Done | None:
        text = str(entry_id, "ascii")
        place = _place(entry_id)
        if place > left.read_to[from_again] or (from_again, text) in left.held:
            return None
        try:
            message = from_fields(fields)
        except InvalidMessage:
            return None  # it became a dead letter
        sent_ms = message.sent_ms or place[0]
        if message.id in left.ids or not self._since_ms <= sent_ms <= self._until_ms:
            return None
        return Done(from_again, text, message, sent_ms)

    def _unfinished(self) -> Unfinished:
        """What the group has to do yet. Moves go from the streams to the delayed ones and back, so it looks there last.

        One that comes back in that very moment is missed, and runs once more than it had to.
        """
        read_to: dict[bool, tuple[int, int]] = {}
        held: set[tuple[bool, str]] = set()
        ids: set[str] = set()
        for from_again, stream in self._sources.items():
            last = self._last_delivered(stream)
            if last is None:
                continue
            read_to[from_again] = _place(last)
            entries = list(self._held(stream))
            held |= {(from_again, str(entry, "ascii")) for entry in entries}
            if from_again:
                for entry in entries:
                    ids |= {_id_of(fields) for _, fields in self._broker.call("XRANGE", stream, entry, entry)}
                for rows in self._pages(stream, _place(last)[0], math.inf):
                    ids |= {_id_of(fields) for entry, fields in rows if _place(entry) > _place(last)}
        for resting in self._resting:
            ids |= set(self._members(resting))
        if self._group == QUEUE_GROUP:
            ids |= set(self._listed())
        return Unfinished(read_to, held, ids - {""})

    def _listed(self) -> Iterator[str]:
        """Ids of the messages that wait for a slot of a concurrency limit, or for their turn in an order."""
        stream = self._sources[False]
        limits, orders = (
            [str(name, "utf-8") for name in self._broker.call("HKEYS", of(stream)) if name]
            for of in (keys.parking, keys.ordered)
        )
        for name in (*(keys.parked(stream, limit) for limit in limits), *orders):
            # From its end: what leaves it meanwhile leaves at the beginning, and would move others past this.
            last = -1
            while rows := self._broker.call("LRANGE", name, last - SCAN_PIECE + 1, last):
                yield from _ids_of(rows)
                last -= SCAN_PIECE

    def _members(self, resting: str) -> Iterator[str]:
        """Ids of the messages in a sorted set."""
        cursor = b"0"
        while True:
            cursor, flat = self._broker.call("ZSCAN", resting, cursor, "COUNT", SCAN_PIECE)
            yield from _ids_of(flat[::2])
            if cursor == b"0":
                return

    def _last_delivered(self, stream: str) -> bytes | None:
        for row in self._groups(stream):
            found = dict(zip(row[::2], row[1::2], strict=True))
            if found[b"name"] == self._group.encode():
                last: bytes = found[b"last-delivered-id"]
                return last
        return None

    def _groups(self, stream: str) -> list[list[Any]]:
        if not self._broker.call("EXISTS", stream):
            return []
        found: list[list[Any]] = self._broker.call("XINFO", "GROUPS", stream)
        return found

    def _held(self, stream: str) -> Iterator[bytes]:
        start = b"-"
        while True:
            rows = self._broker.call("XPENDING", stream, self._group, start, "+", SCAN_PIECE)
            yield from (row[0] for row in rows)
            if len(rows) < SCAN_PIECE:
                return
            start = b"(" + rows[-1][0]

    def _pages(self, stream: str, from_ms: int, to_ms: float) -> Iterator[list[tuple[bytes, list[bytes]]]]:
        """Entries of ``stream``, piece by piece; fewer at a time where they are large."""
        start, end = b"%d" % max(0, from_ms), "+" if to_ms == math.inf else str(int(to_ms))
        size = PIECE // 5
        while True:
            rows = self._broker.call("XRANGE", stream, start, end, "COUNT", size)
            if not rows:
                return
            yield [(entry, fields or []) for entry, fields in rows]
            start = b"(" + rows[-1][0]
            held = sum(len(field) for _, fields in rows for field in fields or ())
            size = max(1, min(PIECE, PIECE_BYTES * len(rows) // max(held, 1)))


def _place(entry_id: bytes) -> tuple[int, int]:
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number)


def _ids_of(members: Sequence[bytes]) -> Iterator[str]:
    """The ids of messages that rest as JSON."""
    for member in members:
        try:
            yield from_fields_json(member).id
        except InvalidMessage:
            continue


def _id_of(fields: Sequence[bytes] | None) -> str:
    """The id of a message; nothing for what is none."""
    try:
        return from_fields(fields or []).id
    except InvalidMessage:
        return ""
