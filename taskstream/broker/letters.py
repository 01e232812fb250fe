"""The dead letters of one consumer group: looking at them, requeueing and purging them, a bounded piece at a time.

Used by whoever operates a group, never by a worker on a message's way. A requeued message keeps its id, and how it
died before goes along as the header ``ts-history``; nothing here ever reaches another group of the stream.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from taskstream import keys
from taskstream.broker.publisher import Publisher
from taskstream.broker.script import Script
from taskstream.errors import InvalidMessage, ValidationError
from taskstream.handler import QUEUE_GROUP
from taskstream.message import HISTORY_HEADER, OWN_HEADERS, PLACE_HEADERS, Message, fields_of, from_fields
from taskstream.results.base import Failure
from taskstream.ties import Tie, ties_of

PIECE = 100
"""Letters in one command or script call, at most: everybody else waits meanwhile, 1 to 2 ms."""

PIECE_BYTES = 4 * 1024 * 1024
"""What the letters of one piece should come to; letters are as large as the messages in them."""

FIRST_PIECE = 20
"""Letters in the first piece, while nothing is known of how large they are."""

HISTORY = 10
"""Deaths that go along with a requeued message: the last ones."""

HISTORY_TEXT = 1000
"""Characters of an error's text in the history."""

MAX_FIELDS = 2000
"""Fields and values that an unreadable entry may have to be put back: a script can hand on only so many."""

LAST_MS = 253_402_300_800_000
"""The end of the year 9999, which is as far as dates go."""

_REQUEUE = Script("requeue")
_PURGE = Script("purge")


class Death(msgspec.Struct, frozen=True):
    """An earlier death of a message that was requeued since. ``at`` in ms since the epoch; counts as in DeadLetter."""

    type: str
    message: str
    attempts: int
    deliveries: int
    at: int


class _Stored(msgspec.Struct, frozen=True):
    """A letter as the worker wrote it (worker/outcomes.py)."""

    fields: list[str]
    error: Failure
    name: str | None = None
    handler: str | None = None
    attempts: int = 0
    deliveries: int = 0
    deaths: int = 0
    sent_ms: int = 0
    worker: str = ""
    raw: list[str] | None = None


_decode = msgspec.json.Decoder(_Stored).decode
_NOTHING = _Stored([], Failure("DamagedLetter", "the letter itself is gone, only its time is left"))


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead letter.

    ``died_ms`` by Redis' clock, ``sent_ms`` when it was first published (ms since the epoch). ``attempts`` counts
    runs since it was sent or requeued, ``deliveries`` all hand-outs to workers, ``deaths`` worker processes that died
    while it had started. ``name`` is the message's (task, or type of an event's payload), None if it is unreadable;
    ``handler`` what was to run it, where there was one. ``fields`` are the entry's, flat; ``digest`` tells this letter
    from a later one of the same id.
    """

    id: str
    name: str | None
    handler: str | None
    died_ms: int
    sent_ms: int
    attempts: int
    deliveries: int
    deaths: int
    worker: str
    error: Failure
    fields: tuple[bytes, ...]
    digest: str

    def message(self) -> Message:
        """The message in it. Raises InvalidMessage if there is none."""
        return from_fields(self.fields)

    def history(self) -> list[Death]:
        """Its earlier deaths, the oldest first; empty if it was never requeued."""
        try:
            return _history(self.message())
        except InvalidMessage:
            return []


@dataclass(frozen=True)
class Filter:
    """Which letters: those that all of these fit. None fits everything.

    ``error`` the error's type; ``task`` the handler or the message's name; ``since_s`` died at most that many seconds
    ago, ``older_than_s`` at least; ``limit`` no more than so many, the oldest ones.
    """

    error: str | None = None
    task: str | None = None
    since_s: float | None = None
    older_than_s: float | None = None
    limit: int | None = None

    def fits(self, letter: DeadLetter) -> bool:
        """Whether a letter of the right age is meant."""
        return (self.error is None or self.error == letter.error.type) and (
            self.task is None or self.task in (letter.name, letter.handler)
        )

    @property
    def by_content(self) -> bool:
        """Whether a letter has to be read to know if it fits."""
        return self.error is not None or self.task is not None


class Verdict(NamedTuple):
    """What became of one letter: done, or left alone, with the reason if it was refused."""

    id: str
    done: bool
    problem: str | None = None


_VERDICTS: dict[int, Callable[[str], Verdict]] = {
    1: lambda letter: Verdict(letter, True),
    0: lambda letter: Verdict(letter, False),
    2: lambda letter: Verdict(letter, False, f"{letter}: the same call of its unique task waits or runs already"),
}
"""By the reply of requeue.lua."""


@dataclass(frozen=True)
class Page:
    """A piece of a search: the letters in it that fit, and how many were looked at for it."""

    letters: list[DeadLetter]
    examined: int


@dataclass
class _Cursor:
    """The last letter looked at. ``offset`` is where it was among those of its time: a hint, others may have gone."""

    score: float
    member: bytes = b""
    offset: int = 0


class Letters:
    """The dead letters of ``group`` on ``stream``. Methods raise BrokerUnavailable."""

    def __init__(self, broker: Publisher, stream: str, group: str) -> None:
        self._broker = broker
        self._stream = stream
        self._group = group
        self._dead = keys.dead(stream, group)
        self._letters = keys.letters(stream, group)
        self._again = keys.again(stream, group)
        self._deaths = keys.deaths(stream, group)

    def count(self, wanted: Filter | None = None, now_ms: int | None = None) -> int:
        """How many of the wanted age there are, whatever else ``wanted`` says; ``now_ms`` as in ``find``."""
        low, high = self._range(wanted or Filter(), now_ms)
        return int(self._broker.call("ZCOUNT", self._dead, _score(low), _score(high)))

    def get(self, ids: Sequence[str]) -> Iterator[tuple[list[DeadLetter], list[str]]]:
        """The letters of these ids, in their order, and the ids that have none; piece by piece."""
        size, wanted = FIRST_PIECE, list(dict.fromkeys(ids))
        while wanted:
            piece, wanted = wanted[:size], wanted[size:]
            times = self._broker.call("ZMSCORE", self._dead, *piece)
            rows = [(one.encode(), -1.0 if at is None else float(at)) for one, at in zip(piece, times, strict=True)]
            found, size = self._read(rows)
            there = {letter.id for letter in found}
            yield found, [one for one in piece if one not in there]

    def find(self, wanted: Filter, now_ms: int | None = None) -> Iterator[Page]:
        """The letters that fit, the oldest first, piece by piece; those that had died at ``now_ms`` (None: now).

        Ages count from then too, by Redis' clock. They may be requeued or purged meanwhile, by the caller too.
        """
        low, high = self._range(wanted, now_ms)
        cursor, size, left = _Cursor(low), FIRST_PIECE, wanted.limit
        while left is None or left > 0:
            if left is not None and not wanted.by_content:
                size = min(size, left)
            rows = self._after(cursor, high, size)
            if not rows:
                return
            letters, size = self._read(rows)
            fitting = [letter for letter in letters if wanted.fits(letter)][:left]
            if left is not None:
                left -= len(fitting)
            yield Page(fitting, len(rows))

    def requeue(self, letters: Sequence[DeadLetter], *, force: bool = False) -> list[Verdict]:
        """Put letters back to be tried again, at most PIECE.

        One that is gone, or died again, since it was read is let be: what is requeued twice at once runs once. A letter
        that is no message is refused; with ``force`` the fields of its entry are put back as they are.
        """
        arguments: list[Any] = []
        all_keys = [self._dead, self._letters, self._again, self._deaths]
        problems: dict[str, str] = {}
        for letter in letters:
            try:
                fields = fields_to_requeue(letter, force=force)
            except InvalidMessage as error:
                problems[letter.id] = str(error)
            else:
                ties = self._ties(letter)
                all_keys += [key for tie in ties for key in tie.keys]
                said = [tie.what for tie in ties]
                arguments += (letter.id, letter.digest, len(said), *said, len(fields), *fields)
        reply = iter(_REQUEUE.run(self._broker.call, all_keys, arguments) if arguments else ())
        return [
            Verdict(letter.id, False, problems[letter.id])
            if letter.id in problems
            else _VERDICTS[next(reply)](letter.id)
            for letter in letters
        ]

    def _ties(self, letter: DeadLetter) -> tuple[Tie, ...]:
        try:
            message = letter.message()
        except InvalidMessage:
            return ()  # put back as it is
        if self._group != QUEUE_GROUP or not message.headers:
            return ()
        return ties_of(self._stream, message.id, message.headers)

    def purge(self, letters: Sequence[DeadLetter]) -> list[Verdict]:
        """Delete letters, at most PIECE; those that are gone, or died again, since they were read are let be."""
        if not letters:
            return []
        arguments = [part for letter in letters for part in (letter.id, letter.digest)]
        reply = _PURGE.run(self._broker.call, [self._dead, self._letters], arguments)
        return [Verdict(letter.id, done == 1) for letter, done in zip(letters, reply, strict=True)]

    def _range(self, wanted: Filter, now_ms: int | None) -> tuple[float, float]:
        """Times of death, ms. What dies from now on is never among them, or a requeue of all might never end."""
        now = self._broker.now_ms() if now_ms is None else now_ms
        low = -math.inf if wanted.since_s is None else now - wanted.since_s * 1000
        return low, now - (wanted.older_than_s or 0.0) * 1000

    def _after(self, cursor: _Cursor, high: float, size: int) -> list[tuple[bytes, float]]:
        """At most ``size`` ids and times after the cursor, which moves to the last of them.

        By time and id, not by rank: letters go while they are looked at, and many may have died in one millisecond.
        """
        offset = cursor.offset
        while True:
            flat = self._broker.call(
                *("ZRANGE", self._dead, _score(cursor.score), _score(high), "BYSCORE", "LIMIT", offset, size + 1),
                "WITHSCORES",
            )
            rows = [(member, float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True)]
            passed = sum(score == cursor.score and member <= cursor.member for member, score in rows)
            if offset and not passed:
                offset = 0  # what lay before it is gone, so something new may lie before this offset
                continue
            fresh = rows[passed:][:size]
            if fresh:
                last, score = fresh[-1]
                at = offset + passed + len(fresh) - 1
                start = next((index for index, row in enumerate(rows) if row[1] == score), 0)
                cursor.offset = at if score == cursor.score else at - offset - start
                cursor.score, cursor.member = score, last
                return fresh
            if len(rows) <= size:
                return []
            offset += size  # one of them once more, to see next time that nothing before it went

    def _read(self, rows: Sequence[tuple[bytes, float]]) -> tuple[list[DeadLetter], int]:
        """The letters of these ids and times, and how many the next piece should have.

        One that went since its time was read is none; of a damaged one its time is still there.
        """
        ids = [member for member, _ in rows]
        stored = self._broker.call("HMGET", self._letters, *ids)
        now: list[bytes | None] = []
        if None in stored:
            now = self._broker.call("ZMSCORE", self._dead, *ids)
        letters = [
            _letter(member, at, raw)
            for index, ((member, at), raw) in enumerate(zip(rows, stored, strict=True))
            if raw is not None or float(now[index] or "nan") == at
        ]
        average = sum(len(raw) for raw in stored if raw is not None) / len(rows)
        return letters, max(1, min(PIECE, int(PIECE_BYTES / max(1.0, average))))


def fields_to_requeue(letter: DeadLetter, *, force: bool = False) -> Sequence[str | bytes]:
    """The flat fields of the entry by which a letter's message is tried again.

    Its attempts start over at 1 and the number of its deliveries goes on, so that the new outcome replaces the old one.
    Raises InvalidMessage for a letter that is no message; with ``force`` only if its raw fields cannot be put back.
    """
    try:
        message = letter.message()
        headers = {
            name: value
            for name, value in (message.headers or {}).items()
            if name in PLACE_HEADERS or not name.startswith(OWN_HEADERS)
        }
        death = Death(
            letter.error.type, letter.error.message[:HISTORY_TEXT], letter.attempts, letter.deliveries, letter.died_ms
        )
        headers[HISTORY_HEADER] = [msgspec.to_builtins(one) for one in [*_history(message), death][-HISTORY:]]
        deliveries = max(message.deliveries, letter.deliveries)
        return fields_of(
            Message(message.id, message.name, message.body, headers, 1, deliveries, message.sent_ms, message.priority)
        )
    except (InvalidMessage, ValidationError) as error:
        if not force:
            raise InvalidMessage(f"{letter.id} is no message that could run: {error}") from None
    if not letter.fields or len(letter.fields) > MAX_FIELDS:
        found = (
            f"{len(letter.fields)} fields and values, at most {MAX_FIELDS} can be" if letter.fields else "nothing to be"
        )
        raise InvalidMessage(f"{letter.id} has {found} put back")
    return letter.fields


def _history(message: Message) -> list[Death]:
    try:
        return msgspec.convert((message.headers or {}).get(HISTORY_HEADER, []), list[Death])
    except msgspec.ValidationError:
        return []  # somebody else's header


def _time(score: float) -> int:
    """A time of death, ms; 0 for a score that no worker made."""
    return int(score) if 0 <= score < LAST_MS else 0


def _letter(member: bytes, at: float, raw: bytes | None) -> DeadLetter:
    stored = _NOTHING
    if raw is not None:
        try:
            stored = _decode(raw)
        except msgspec.MsgspecError as error:
            stored = _Stored([], Failure("DamagedLetter", f"not written by a worker: {error}"))
    try:
        fields = [base64.b64decode(one) for one in stored.raw] if stored.raw is not None else None
    except binascii.Error:
        fields = None
    return DeadLetter(
        member.decode(errors="backslashreplace"),
        stored.name,
        stored.handler,
        _time(at),
        stored.sent_ms,
        stored.attempts,
        stored.deliveries,
        stored.deaths,
        stored.worker,
        stored.error,
        tuple(fields if fields is not None else [field.encode() for field in stored.fields]),
        hashlib.sha1(raw or b"", usedforsecurity=False).hexdigest(),
    )


def _score(value: float) -> str:
    return repr(value) if math.isfinite(value) else ("+inf" if value > 0 else "-inf")
