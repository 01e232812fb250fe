"""One consumer's side of one consumer group: read, commit, take over, promote, trim.

Each method is one round trip of one command or script, over the caller that is passed in: ``call(*command)``
of a Link or of the broker. Errors of the client library or BrokerUnavailable pass through; when to try
again is the worker's decision. docs/delivery.md says what each move means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import redis

from taskstream import keys
from taskstream.broker.script import Script, wake_call
from taskstream.ties import Tie

Call = Callable[..., Any]
Replies = Callable[[Sequence[tuple[Any, ...]]], list[Any]]

REMEMBER_DEATHS_S = 30 * 24 * 3600
PIECE = 1_000
CHOICES = {b"started": "started", b"stopped": "stopped"}
"""What an operator may choose for a group. Anything else was not written by us, and nobody's choice."""

COMMIT_KEYS = 8
"""Keys of a commit before those of ties."""

_REGISTER = Script("register")
_RENEW = Script("renew")
_COMMIT = Script("commit")
_SWEEP = Script("sweep")
_CLAIM = Script("claim")
_RELEASE = Script("release")
_ABSOLVE = Script("absolve")
_PROMOTE = Script("promote")
_FEED = Script("feed")
_TRIM = Script("trim")
_FORGET = Script("forget")


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A stream entry handed to this consumer; ``times`` counts hand-outs of this entry, from 1.

    ``deaths`` and ``why`` are known of what was taken over: worker processes that died under the message, and
    why its last run was ended on purpose.
    """

    from_again: bool
    entry_id: str
    fields: Sequence[bytes]
    times: int = 1
    deaths: int = 0
    why: str = ""


class Renewal(NamedTuple):
    """Answer to a renewal: whether the lease still holds, the operator's choice with its version, whether anything
    waits by its priority, and the server's time (ms since the epoch)."""

    held: bool
    version: int
    choice: str | None
    ranked: bool = False
    server_ms: int = 0


class Fed(NamedTuple):
    """Answer to ``feed``: what was handed out, the ``turn`` of the next call, and whether priorities are in use."""

    entries: list[Entry]
    turn: int
    used: bool


class Claimed(NamedTuple):
    """Answer to a takeover. ``mine_ran_out`` means nothing was done because the own lease does not hold."""

    mine_ran_out: bool
    finished: bool
    entries: list[Entry]


class Batch:
    """Finished messages of one consumer, to be committed together; at most 1,000. ``ties`` are those of a message."""

    __slots__ = ("again_acks", "keys", "main_acks", "moves")

    def __init__(self) -> None:
        self.main_acks: list[str] = []
        self.again_acks: list[str] = []
        self.moves: list[Any] = []
        self.keys: list[str] = []
        """Those of ties."""

    def ack(self, from_again: bool, entry_id: str) -> None:
        """Done."""
        (self.again_acks if from_again else self.main_acks).append(entry_id)

    def ack_suspect(self, from_again: bool, entry_id: str, message_id: str, ties: Sequence[Tie] = ()) -> None:
        """Done, and the deaths counted for it are forgotten. For those with ties too."""
        self.moves += ("a", 2 if from_again else 1, entry_id, message_id, "", "", self._tied(ties))

    def retry(
        self,
        from_again: bool,
        entry_id: str,
        message_id: str,
        when: int | str,
        fields_json: str,
        ties: Sequence[Tie] = (),
    ) -> None:
        """Readable again, as ``fields_json``, after ``when`` ms, or at ``"@ms"`` since the epoch by Redis' clock."""
        where = 2 if from_again else 1
        self.moves += ("r", where, entry_id, message_id, when, fields_json, self._tied(ties))

    def give_back(
        self, from_again: bool, entry_id: str, message_id: str, fields_json: str, ties: Sequence[Tie] = ()
    ) -> None:
        """Readable again at once, as ``fields_json``."""
        self.moves += ("g", 2 if from_again else 1, entry_id, message_id, "", fields_json, self._tied(ties))

    def park(self, from_again: bool, entry_id: str, message_id: str, fields_json: str, ties: Sequence[Tie]) -> None:
        """Readable again, as ``fields_json``, as soon as it has the slot that one of ``ties`` is about."""
        self.moves += ("w", 2 if from_again else 1, entry_id, message_id, "", fields_json, self._tied(ties))

    def bury(
        self, from_again: bool, entry_id: str, message_id: str, letter_json: str, ties: Sequence[Tie] = ()
    ) -> None:
        """A dead letter from now on."""
        self.moves += ("d", 2 if from_again else 1, entry_id, message_id, "", letter_json, self._tied(ties))

    def _tied(self, ties: Sequence[Tie]) -> str | bytes:
        if not ties:
            return ""
        said = []
        for tie in ties:
            start = COMMIT_KEYS + len(self.keys) + 1
            self.keys += tie.keys
            said.append([tie.what, tie.argument, *range(start, start + len(tie.keys))])
        return msgspec.json.encode(said)


class ConsumerGroup:
    """One consumer of one group of one stream, for the life of that consumer's name."""

    def __init__(self, stream: str, group: str, consumer: str, lease_ms: int, retention_ms: int = 0) -> None:
        """``retention_ms``: how long what is done stays in the streams, 0 not at all."""
        self.retention_ms = retention_ms
        self.stream = stream
        self.group = group
        self.consumer = consumer
        self.lease_ms = lease_ms
        self._again = keys.again(stream, group)
        self._leases = keys.leases(stream, group)
        self._streams = [stream, self._again]
        self._ranked = keys.ranked(stream, group)
        self._wake = wake_call(stream, group)
        self._commit_keys = [
            *self._streams,
            self._leases,
            keys.delayed(stream, group),
            keys.deaths(stream, group),
            keys.dead(stream, group),
            keys.letters(stream, group),
            keys.watched(stream),
        ]
        self._channel = keys.done_channel(stream)
        self._renewal_arguments: tuple[list[str], list[Any]] = (
            [self._leases, keys.control(stream, group), self._ranked],
            [consumer, lease_ms],
        )
        self.renewal = _RENEW.command(*self._renewal_arguments)
        """The command that ``renew`` sends."""

    def register(self, call: Call) -> bool:
        """Make the groups where missing and take a lease; False if the consumer's name was used before."""
        reply = _REGISTER.run(call, [*self._streams, self._leases], [self.group, self.consumer, self.lease_ms])
        return bool(reply == 1)

    def time_ms(self, call: Call) -> int:
        """The server's clock, ms since the epoch."""
        seconds, micros = call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def renew(self, call: Call) -> Renewal:
        """Extend the lease, unless it was taken."""
        return _renewal(_RENEW.run(call, *self._renewal_arguments))

    def read(
        self, call: Call, count: int, block_ms: int | None, *, again: bool = True, main: bool = True
    ) -> list[Entry]:
        """Read at most ``count`` new entries of each stream; wait ``block_ms`` for the first, None not at all.

        Without ``main`` only the group's own stream is read, without ``again`` only the other.
        """
        command: list[Any] = ["XREADGROUP", "GROUP", self.group, self.consumer, "COUNT", count]
        if block_ms is not None:
            command += ("BLOCK", block_ms)
        if again and main:
            reply = call(*command, "STREAMS", self._again, self.stream, ">", ">")
        else:
            reply = call(*command, "STREAMS", self._again if again else self.stream, ">")
        entries: list[Entry] = []
        for name, rows in reply or ():
            from_again = name != self.stream.encode()
            entries += [Entry(from_again, str(entry_id, "ascii"), fields) for entry_id, fields in rows]
        return entries

    def feed(self, call: Call, count: int, turn: int) -> Fed:
        """Take at most ``count`` of what waits, by its priority, without waiting; 0 is the ``turn`` of the first call.

        Of entries that are no messages there may be more.
        """
        reply = _FEED.run(call, [*self._streams, self._ranked], [self.group, self.consumer, count, turn])
        flat = reply[2:]
        entries = [
            Entry(source == 2, str(entry_id, "ascii"), fields)
            for source, entry_id, fields in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        ]
        return Fed(entries, int(reply[0]), bool(reply[1]))

    def commit(self, call: Call, batch: Batch, finished_ids: str) -> tuple[bool, bool]:
        """Commit a batch in one step; return whether this consumer still owned it, and whether anyone waits.

        ``finished_ids`` (separated by spaces) are announced if somebody waits for results.
        """
        reply = _COMMIT.run(
            call,
            [*self._commit_keys, *batch.keys] if batch.keys else self._commit_keys,
            [
                self.group,
                self.consumer,
                self._channel,
                finished_ids,
                len(batch.main_acks),
                len(batch.again_acks),
                "1" if self.retention_ms else "",
                *batch.main_acks,
                *batch.again_acks,
                *batch.moves,
            ],
        )
        if reply[0] != 1:
            return False, False
        return True, bool(reply[1])

    def announce(self, call: Call, finished_ids: str) -> None:
        """Tell waiters about messages whose commit did not."""
        call("PUBLISH", self._channel, finished_ids)

    def missing(self, call: Call, known: Callable[[bool, str], bool], limit: int) -> list[Entry]:
        """Entries the server holds for this consumer that it does not know of: their reply was lost.

        An entry deleted from the stream meanwhile is acknowledged, there is nothing left to do for it.
        """
        found: list[Entry] = []
        for from_again, stream in ((False, self.stream), (True, self._again)):
            for entry_id, _consumer, _idle, times in call(
                "XPENDING", stream, self.group, "-", "+", limit, self.consumer
            ):
                text = str(entry_id, "ascii")
                if known(from_again, text):
                    continue
                # It may have been committed, and forgotten here, after the list was made: then it is not pending now.
                if not call("XPENDING", stream, self.group, text, text, 1, self.consumer):
                    continue
                rows = call("XRANGE", stream, text, text)
                if rows:
                    found.append(Entry(from_again, text, rows[0][1], int(times), *self._history(call, rows[0][1])))
                else:
                    call("XACK", stream, self.group, text)
        return found

    def _history(self, call: Call, fields: Sequence[bytes]) -> tuple[int, str]:
        """Deaths of a message and why its last run was ended: the lost reply may have been a takeover's."""
        message_id = dict(zip(fields[::2], fields[1::2], strict=False)).get(b"id", b"")
        deaths, why = call("HMGET", keys.deaths(self.stream, self.group), message_id, message_id + b" why")
        return int(deaths or 0), str(why or b"", "utf-8")

    def sweep(self, call: Call) -> list[tuple[str, float]]:
        """Consumers of the group and their lease scores, those longest without renewal first, at most 1,000."""
        flat = _SWEEP.run(call, [*self._streams, self._leases], [self.group, self.lease_ms])
        return [
            (str(consumer, "utf-8", "surrogateescape"), float(score))
            for consumer, score in zip(flat[::2], flat[1::2], strict=True)
        ]

    def claim(self, call: Call, victim: str, observed: float, count: int, suspect_at: int = 2**31) -> Claimed:
        """Take at most ``count`` messages over from ``victim``, whose lease was seen at score ``observed``.

        A message under which ``suspect_at`` processes died is the last one taken.
        """
        reply = _CLAIM.run(
            call,
            [*self._streams, self._leases, keys.deaths(self.stream, self.group)],
            [
                self.group,
                self.consumer,
                count,
                victim.encode("utf-8", "surrogateescape"),
                repr(observed),
                REMEMBER_DEATHS_S,
                suspect_at,
            ],
        )
        if reply[0] == -1:
            return Claimed(True, False, [])
        if reply[0] == 0:
            return Claimed(False, True, [])
        rows = reply[2:]
        entries = [
            Entry(
                rows[at] == 2,
                str(rows[at + 1], "ascii"),
                rows[at + 5],
                int(rows[at + 2]),
                int(rows[at + 3]),
                str(rows[at + 4], "utf-8"),
            )
            for at in range(0, len(rows), 6)
        ]
        return Claimed(False, reply[0] == 1, entries)

    def release(self, call: Call, started: Mapping[str, str] = MappingProxyType({})) -> None:
        """End this consumer: removed if it holds nothing, else given up.

        ``started`` are the ids of messages that were running when it died, each with why that run was ended on
        purpose, or with nothing, which counts a death.
        """
        _RELEASE.run(
            call,
            [*self._streams, self._leases, keys.deaths(self.stream, self.group)],
            [self.group, self.consumer, REMEMBER_DEATHS_S, *(word for pair in started.items() for word in pair)],
        )

    def absolve(self, call: Call, held: Sequence[tuple[bool, str, str]]) -> None:
        """This consumer has lost its lease and not died: take back what that counted for the messages it ``held``.

        They are ``(from_again, entry_id, message_id)``. To be called once a name, not again after an error: it may
        have been done, and taking back a death that really happened would let a message kill more processes than
        it may, while one too many only brings the message nearer to running alone.
        """
        triples = [(2 if from_again else 1, entry_id, message_id) for from_again, entry_id, message_id in held]
        places = [*self._streams, self._leases, keys.deaths(self.stream, self.group)]
        for at in range(0, len(triples), PIECE):
            piece = [word for triple in triples[at : at + PIECE] for word in triple]
            reply = _ABSOLVE.run(call, places, [self.group, self.consumer, int(at == 0), *piece])
            if reply[0] == 0:
                return
            if at == 0:
                pending = set(zip(reply[1::2], reply[2::2], strict=True))
                triples[PIECE:] = [one for one in triples[PIECE:] if (one[0], one[1].encode()) not in pending]

    def promote(self, call: Call, limit: int) -> tuple[int, int | None]:
        """Make at most ``limit`` due messages readable; return how many, and ms until the next is due."""
        names = [keys.delayed(self.stream, self.group), self._again, self._ranked]
        moved, wait = _PROMOTE.run(call, names, [limit, self._wake])
        return int(moved), None if wait < 0 else int(wait)

    def trim(self, call: Call, limit: int) -> int:
        """Remove what every group of the stream is through with and none keeps, about ``limit`` entries a call."""
        places = [*self._streams, keys.retention(self.stream)]
        return int(_TRIM.run(call, places, [limit, self.group, self.retention_ms])[0])

    def forget(self, call: Call, retention_s: float, limit: int) -> int:
        """Delete at most ``limit`` dead letters older than ``retention_s``; return how many."""
        letter_keys = [keys.dead(self.stream, self.group), keys.letters(self.stream, self.group)]
        return int(_FORGET.run(call, letter_keys, [int(retention_s * 1000), limit]))


def renew_all(replies: Replies, groups: Sequence[ConsumerGroup]) -> list[Renewal | redis.ResponseError]:
    """Extend several leases in one round trip; by group, the renewal or the server's error."""
    commands = [group.renewal for group in groups]
    found = replies(commands)
    if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in found):
        found = replies([("SCRIPT", "LOAD", _RENEW.source), *commands])[1:]
    return [reply if isinstance(reply, redis.ResponseError) else _renewal(reply) for reply in found]


def _renewal(reply: Sequence[Any]) -> Renewal:
    held, version, choice, ranked, server_ms = reply
    return Renewal(held == 1, int(version), CHOICES.get(choice), bool(ranked), int(server_ms))


def group_is_gone(error: Exception) -> bool:
    """Whether the stream or its group vanished (FLUSHALL, failover, DEL): register anew.

    A master that becomes a replica unblocks its readers too; then all is still there, on it or on another one.
    """
    text = str(error) if isinstance(error, redis.ResponseError) else ""
    return text.startswith("NOGROUP") or (text.startswith("UNBLOCKED") and "state changed" not in text)
