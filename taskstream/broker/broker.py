"""The broker as operators and commands see it: publishing, and the state of streams, groups and workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from taskstream import keys
from taskstream.broker import turns
from taskstream.broker.group import CHOICES
from taskstream.broker.publisher import Publisher
from taskstream.broker.script import Script, whole
from taskstream.errors import ConfigError, WrongKind
from taskstream.handler import QUEUE_GROUP

_CHOOSE = Script("choose")
_Read = TypeVar("_Read")

COUNT_LIMIT = 10_000
"""Where the server cannot tell a group's lag, unread entries are counted up to this many."""

LEVEL = 10**13
"""What one priority is apart from the next in the scores of messages that wait by it (scripts/_ranking.lua)."""

SCAN_LIMIT = 100_000
SCAN_PIECE = 1_000
"""How many keys of the server are looked at for streams that nobody registered, altogether and at a time (0.2 ms)."""


@dataclass(frozen=True)
class GroupState:
    """One consumer group of a stream at one moment.

    ``waiting`` unread messages, in the stream, in the group's own or by their priority, and those whose turn has not
    come; ``held`` handed to a worker and not done; ``delayed`` waiting for their time; ``dead`` dead letters;
    ``oldest_ms`` since when the oldest one
    waiting or held is there (ms since the epoch), None without one: when it was put into the stream, for one in the
    group's own stream when it was sent, if it says so; ``state`` is the operator's choice (started, stopped) or None.
    ``problems``: keys of the group that hold another kind of value; what they should say is 0 or None here.
    """

    name: str
    waiting: int
    held: int
    delayed: int
    dead: int
    consumers: int
    oldest_ms: int | None
    state: str | None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class SubscriptionInfo:
    """What a label (event or queue) stands for, as the last worker that had it said."""

    stream: str
    group: str
    seen_ms: int


class Broker(Publisher):
    """Publishing and looking. What a worker does with a group is in taskstream.broker.group."""

    def stream_length(self, stream: str) -> int:
        """Entries in ``stream``, done or not; 0 where there is none."""
        return int(self.call("XLEN", stream))

    def group_states(self, stream: str) -> list[GroupState]:
        """The groups of ``stream``, by name; empty where there is no such stream."""
        return self.stream_state(stream)[1]

    def stream_state(self, stream: str) -> tuple[int, list[GroupState]]:
        """``stream_length`` and ``group_states``, in numbers that go together as far as the server lets them.

        Raises WrongKind where ``stream`` is no stream; a key of one group that is broken is among its ``problems``.
        """
        length, groups = self._groups(stream)
        return length, sorted((self._group_state(stream, group) for group in groups), key=attrgetter("name"))

    def _groups(self, stream: str) -> tuple[int, list[dict[str, Any]]]:
        """The stream's length and groups, in one round trip: messages come and go between two."""
        try:
            rows, length = self._round_trip([("XINFO", "GROUPS", stream), ("XLEN", stream)])
        except ConfigError as error:
            if "no such key" in str(error):
                return 0, []
            raise
        found = [{key.decode(): value for key, value in zip(row[::2], row[1::2], strict=True)} for row in rows]
        return int(length), found

    def _group_state(self, stream: str, group: dict[str, Any]) -> GroupState:
        name = group["name"].decode()
        again = keys.again(stream, name)
        problems: list[str] = []

        def look(read: Callable[[], _Read], otherwise: _Read) -> _Read:
            try:
                return read()
            except WrongKind as error:
                problems.append(str(error))
                return otherwise

        own = look(lambda: next((one for one in self._groups(again)[1] if one["name"] == group["name"]), None), None)
        delayed = look(lambda: int(self.call("ZCARD", keys.delayed(stream, name))), 0)
        dead = look(lambda: int(self.call("ZCARD", keys.dead(stream, name))), 0)
        none: tuple[int, int | None] = (0, None)
        ranked, ranked_oldest = look(lambda: self._ranked(stream, name), none)
        state = look(lambda: self.state(stream, name), None)
        waiting, oldest = self._unread(stream, group)
        if name == QUEUE_GROUP:
            waiting += look(lambda: turns.waiting(self.call, stream), 0)
            waiting += look(lambda: self._parked(stream), 0)
        held = int(group["pending"])
        if own is not None:
            own_waiting, own_oldest = self._unread(again, own)
            waiting += own_waiting
            held += int(own["pending"])
            ranked_oldest = min((ms for ms in (ranked_oldest, own_oldest) if ms is not None), default=None)
        oldest = min((ms for ms in (oldest, ranked_oldest) if ms is not None), default=None)
        return GroupState(
            name=name,
            waiting=waiting + ranked,
            held=held,
            delayed=delayed,
            dead=dead,
            consumers=int(group["consumers"]),
            oldest_ms=oldest,
            state=state,
            problems=tuple(problems),
        )

    def _parked(self, stream: str) -> int:
        """How many messages wait for a slot of their limit; of more than COUNT_LIMIT limits those of so many."""
        names = self.call("HRANDFIELD", keys.parking(stream), COUNT_LIMIT)
        if not names:
            return 0
        return sum(map(int, self._round_trip([("LLEN", keys.parked(stream, name.decode())) for name in names])))

    def _unread(self, stream: str, group: dict[str, Any]) -> tuple[int, int | None]:
        """How many entries of ``stream`` the group has unread, and since when its oldest not done is there."""
        oldest = []
        if group["pending"]:
            for pending in self.call("XPENDING", stream, group["name"], "-", "+", 1):
                # An entry that is held and was deleted by hand is known by its id only.
                entry = self.call("XRANGE", stream, pending[0], pending[0])
                oldest.append(_since_ms(*entry[0]) if entry else _entry_ms(pending[0]))
        after = b"(" + group["last-delivered-id"]
        unread = self.call("XRANGE", stream, after, "+", "COUNT", 1)
        if unread:
            oldest.append(_since_ms(*unread[0]))
        lag = group.get("lag")
        if lag is None and unread:
            # Unknown to the server after an undelivered entry was deleted.
            lag = len(self.call("XRANGE", stream, after, "+", "COUNT", COUNT_LIMIT))
        return int(lag or 0), min(oldest, default=None)

    def _ranked(self, stream: str, group: str) -> tuple[int, int | None]:
        """How many wait by their priority, and since when the oldest of them is there."""
        name = keys.ranked(stream, group)
        count = int(self.call("ZCARD", name))
        if not count:
            return 0, None
        first = [
            ("ZRANGE", name, n * LEVEL, f"({(n + 1) * LEVEL}", "BYSCORE", "LIMIT", 0, 1, "WITHSCORES")
            for n in range(10)
        ]
        found = [float(row[1]) % LEVEL for row in self._round_trip(first) if row]
        return count, int(min(found, default=0)) or None

    def streams_there(self) -> tuple[list[str], bool]:
        """The streams on the server whose first entry is a message of ours, registered or not; for people who look.

        Also whether that is certainly all: no more than about SCAN_LIMIT keys are looked at. None where the user may
        not do that.
        """
        cursor: bytes = b"0"
        found: list[bytes] = []
        try:
            for _ in range(SCAN_LIMIT // SCAN_PIECE):
                cursor, names = self.call("SCAN", cursor, "COUNT", SCAN_PIECE, "TYPE", "stream")
                found += [name for name in names if not name.startswith(keys.RESERVED_PREFIX.encode())]
                if cursor == b"0":
                    break
        except ConfigError:
            return [], False
        ours = []
        for start in range(0, len(found), SCAN_PIECE):
            piece = found[start : start + SCAN_PIECE]
            replies = self._exchange([("XRANGE", name, "-", "+", "COUNT", 1) for name in piece])
            for name, entries in zip(piece, replies, strict=True):
                text = name.decode(errors="replace")
                # An error: its user may not read it, or it is gone.
                if isinstance(entries, list) and entries and b"v" in entries[0][1][::2] and _valid(text):
                    ours.append(text)
        return sorted(ours), cursor == b"0"

    def set_state(self, stream: str, group: str, state: str) -> int:
        """Keep the operator's choice (``started`` or ``stopped``) for a group; return its version."""
        return int(_CHOOSE.run(self.call, [keys.control(stream, group)], [state]))

    def state(self, stream: str, group: str) -> str | None:
        """The operator's choice for a group (``started``, ``stopped``), None if nobody chose."""
        return self.choice(stream, group)[1]

    def choice(self, stream: str, group: str) -> tuple[int, str | None]:
        """Version of the operator's choice for a group (0: nobody chose), and the choice."""
        version, state = self.call("HMGET", keys.control(stream, group), "version", "state")
        return whole(version), CHOICES.get(state)

    def subscriptions(self) -> dict[str, SubscriptionInfo]:
        """Every label that a worker announced, and its stream and group."""
        raw = self.call("HGETALL", keys.SUBSCRIPTIONS)
        found = {}
        for label, value in zip(raw[::2], raw[1::2], strict=True):
            try:
                found[label.decode()] = msgspec.json.decode(value, type=SubscriptionInfo)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # not written by a worker
        return found

    def announce_subscriptions(self, subscriptions: dict[str, tuple[str, str]], forget_after_s: float) -> None:
        """Tell what each label stands for; labels that no worker announced for ``forget_after_s`` are dropped."""
        now = int(time.time() * 1000)  # display and housekeeping only
        stale = [
            label
            for label, info in self.subscriptions().items()
            if label not in subscriptions and info.seen_ms < now - forget_after_s * 1000
        ]
        with self.errors():
            pipeline = self.client.pipeline(transaction=False)
            for label, (stream, group) in subscriptions.items():
                info = json.dumps({"stream": stream, "group": group, "seen_ms": now})
                pipeline.hset(keys.SUBSCRIPTIONS, label, info)
            if stale:
                pipeline.hdel(keys.SUBSCRIPTIONS, *stale)
            pipeline.execute()

    def workers(self) -> list[dict[str, Any]]:
        """What each live worker process says about itself, by name."""
        now = self.now_ms()
        names = self.call("ZRANGEBYSCORE", keys.WORKERS, now, "+inf")
        raw = self.call("MGET", *(keys.worker(name.decode()) for name in names)) if names else []
        found = []
        for value in raw:
            try:
                info = msgspec.json.decode(value or b"null")
            except msgspec.DecodeError:
                continue
            if isinstance(info, dict) and isinstance(info.get("name"), str):
                found.append(info)
        return sorted(found, key=lambda info: str(info["name"]))

    def announce_worker(self, name: str, info: dict[str, Any], ttl_s: int) -> None:
        """Keep what a worker process says about itself for ``ttl_s``; drop entries of workers long gone."""
        now = self.now_ms()
        self.calls(
            [
                ("SET", keys.worker(name), msgspec.json.encode(info), "EX", ttl_s),
                ("ZADD", keys.WORKERS, now + ttl_s * 1000, name),
                ("ZREMRANGEBYSCORE", keys.WORKERS, "-inf", now),
                # With the last worker the list goes too, however that one ended.
                ("EXPIRE", keys.WORKERS, ttl_s),
            ]
        )

    def forget_worker(self, name: str) -> None:
        """Drop a worker that ended cleanly from the list."""
        with self.errors():
            pipeline = self.client.pipeline(transaction=False)
            pipeline.delete(keys.worker(name))
            pipeline.zrem(keys.WORKERS, name)
            pipeline.execute()


def _entry_ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _since_ms(entry_id: bytes, fields: list[bytes]) -> int:
    """When an entry was put into its stream; when it was sent, where it says so, as every retry does."""
    sent = dict(zip(fields[::2], fields[1::2], strict=True)).get(b"sent", b"")
    # Not later than it was put there: the sender's clock may be ahead.
    there = _entry_ms(entry_id)
    return min(int(sent), there) if sent.isdigit() and len(sent) < 20 else there


def _valid(name: str) -> bool:
    return keys.NAME_PATTERN.fullmatch(name) is not None
