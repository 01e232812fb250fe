"""Asks Redis whether messages of limited tasks may run, and looks after those that wait for a slot.

Each method is one round trip of one script over the caller that is passed in, as in taskstream.broker.group. What frees
a slot is the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from taskstream import keys
from taskstream.broker.script import Script
from taskstream.handler import QUEUE_GROUP
from taskstream.limits import Limit
from taskstream.ties import Tie

Call = Callable[..., Any]

KEPT_S = 30 * 24 * 3600
"""How long a slot is kept while no other of its limit is taken: a run that takes longer is not counted any more."""

LOOKED_AT = 100
"""Limits that are looked after in one turn, at most."""

SLOT = "slot"
"""What a tie to a slot is called: see commit.lua."""

_LIMIT = Script("limit")
_UNPARK = Script("unpark")


class Answer(NamedTuple):
    """Of ``ask``. ``go``: run after ``wait_us``; else come again in ``wait_us``, at ``at`` (us since the epoch, text).

    ``full``: no slot is free.
    """

    go: bool
    full: bool = False
    wait_us: int = 0
    at: str = ""


def ask(
    call: Call, stream: str, name: str, limit: Limit, message_id: str, held_at: tuple[bool, str], told: str
) -> Answer:
    """Whether a message may run. ``held_at``: from_again and entry id; ``told``: when it was told to come, or ''."""
    from_again, entry_id = held_at
    reply = _LIMIT.run(
        call,
        [keys.slots(stream, name), keys.rate(stream, name)],
        [message_id, f"{2 if from_again else 1} {entry_id}", limit.most or 0, limit.apart_us or 0, told or 0, KEPT_S],
    )
    if reply[0] == 2:
        return Answer(False, full=True)
    if reply[0] == 0:
        return Answer(False, wait_us=int(reply[1]), at=str(reply[2], "ascii"))
    return Answer(True, wait_us=int(reply[1]))


def tie(stream: str, name: str, most: int, message_id: str) -> Tie:
    """What ties a message to its slot, or to its place among those that wait for one."""
    own = (keys.slots(stream, name), keys.parked(stream, name), keys.parking(stream))
    return Tie(SLOT, f"{message_id} {most} {name} {KEPT_S}", own)


def parked_for(call: Call, stream: str) -> list[str]:
    """Names of limits for which messages are parked: all, or so many of them, different ones each time."""
    return [str(name, "utf-8") for name in call("HRANDFIELD", keys.parking(stream), LOOKED_AT)]


def unpark(call: Call, stream: str, name: str) -> tuple[int, int]:
    """Free the slots that nobody holds any more, let go what waits for one; return how many of each."""
    stale, gone = _UNPARK.run(
        call,
        [
            stream,
            keys.again(stream, QUEUE_GROUP),
            keys.slots(stream, name),
            keys.parked(stream, name),
            keys.parking(stream),
        ],
        [QUEUE_GROUP, name, KEPT_S],
    )
    return int(stale), int(gone)
