"""What a workflow keeps in Redis: chords, where the values of a group's members meet until what follows is published.

Everything may be repeated to no effect. What follows is published by the caller, under its own id; nothing here decides
what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from taskstream import keys
from taskstream.broker.publisher import Envelope, Publisher
from taskstream.broker.script import Script
from taskstream.handler import Joining, Opening, Successor

KEEP_S = 30 * 24 * 3600
"""How long a chord waits for its next member: as long as a dead letter is kept unless said otherwise."""

PIECE = 100
"""Members in one run of the script, so that the server is never busy with one for long."""

_OPEN = Script("open_chord")
_JOIN = Script("join")


def envelope_of(successor: Successor, *, once: bool = True) -> Envelope:
    """The envelope of what is to be published; ``once``: to no effect where that has been done."""
    message = successor.message
    unique = keys.unique_failure(message.id) if successor.failed else keys.unique_id(message.id)
    return Envelope(
        successor.stream,
        message,
        (unique,) if once else (),
        successor.max_length,
        successor.delay_ms,
        successor.due_ms,
        successor.ordering_key,
    )


class Joined(NamedTuple):
    """What is to follow now that ``joining`` joined. ``values`` in the members' order; None if one failed."""

    joining: Joining
    then: bytes
    headers: bytes
    values: list[bytes] | None


class Chords:
    """The chords of one server. Methods raise as ``Publisher.call`` does."""

    def __init__(self, broker: Publisher) -> None:
        self._broker = broker

    def open(self, openings: Sequence[Opening]) -> None:
        """Make places for the members of chords that begin."""
        commands = [
            _OPEN.command(
                [keys.chord(one.queue, one.id), keys.published(one.queue, keys.unique_id(one.id))],
                [KEEP_S, one.total, one.then, one.headers],
            )
            for one in openings
        ]
        self._broker.calls([("SCRIPT", "LOAD", _OPEN.source), *commands])

    def join(self, joinings: Sequence[Joining]) -> tuple[list[Joined], list[Joining]]:
        """Keep values; return what follows now, and one member of each chord that is not there (any more).

        That is so for what joined before the chord was through, too, and is repeated.
        """
        pieces = list(_pieces(joinings))
        commands = []
        for piece in pieces:
            first = piece[0]
            words = [
                word
                for one in piece
                for word in (one.index, "f" if one.value is None else "v", b"" if one.value is None else one.value)
            ]
            places = [
                keys.chord(first.queue, first.id),
                keys.published(first.queue, keys.unique_failure(first.id)),
            ]
            commands.append(_JOIN.command(places, [KEEP_S, *words]))
        replies = self._broker.calls([("SCRIPT", "LOAD", _JOIN.source), *commands])[1:]
        follows: list[Joined] = []
        gone: list[Joining] = []
        for piece, (what, *rest) in zip(pieces, replies, strict=True):
            if what == 1:
                follows.append(Joined(piece[0], rest[0], rest[1], rest[2:]))
            elif what == 2:
                failed = next(one for one in piece if one.value is None)
                follows.append(Joined(failed, rest[0], rest[1], None))
            elif what == -1:
                gone.append(piece[0])
        return follows, gone

    def close(self, done: Sequence[Joined]) -> None:
        """Forget chords whose followers have been published."""
        whole = [one.joining for one in done if one.values is not None]
        if whole:
            self._broker.calls([("DEL", keys.chord(one.queue, one.id)) for one in whole])


def _pieces(joinings: Sequence[Joining]) -> Iterator[list[Joining]]:
    """Members of one chord together, PIECE at most."""
    chords: dict[tuple[str, str], list[Joining]] = {}
    for one in joinings:
        chords.setdefault((one.queue, one.id), []).append(one)
    for members in chords.values():
        for start in range(0, len(members), PIECE):
            yield members[start : start + PIECE]
