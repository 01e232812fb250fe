"""What is known of messages that are not done: kept in Redis for a while, and told to whoever listens.

Only a hint for people who look; a message's outcome is in the result store, and goes before this.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from taskstream import keys
from taskstream.broker.publisher import Publisher
from taskstream.message import encode_json

PENDING = "PENDING"
SCHEDULED = "SCHEDULED"
STARTED = "STARTED"
PROGRESS = "PROGRESS"

KEEP_S = 24 * 3600
"""How long a state is kept after its last change; a scheduled message's, after its time."""


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """One state. ``at_ms`` is when it began, by the clock of whoever says it (ms since the epoch).

    ``info`` is the handler's own, in PROGRESS. ``delivery`` numbers the hand-out that is under way, 0 where there was
    none yet. ``due_ms``: when a SCHEDULED message is to run.
    """

    state: str
    at_ms: int
    info: Any = None
    worker: str = ""
    delivery: int = 0
    due_ms: int = 0


_decode = msgspec.json.Decoder(State).decode


def note(broker: Publisher, message_id: str, state: State) -> None:
    """Keep a state and tell it on the channel of that name, in one round trip.

    Raises BrokerUnavailable; ValidationError for ``info`` that JSON cannot carry.
    """
    name, text = keys.state(message_id), encode_json(state)
    broker.calls([("SET", name, text, "EX", KEEP_S), ("PUBLISH", name, text)])


def note_scheduled(broker: Publisher, due: Iterable[tuple[str, int]]) -> None:
    """Keep that messages wait for their time: id and when that is (ms since the epoch). One round trip.

    What is known of one already is newer. Raises BrokerUnavailable.
    """
    now = now_ms()
    commands = [
        (
            *("SET", keys.state(message_id), encode_json(State(SCHEDULED, now, due_ms=due_ms)), "NX"),
            *("PX", max(0, due_ms - now) + KEEP_S * 1000),
        )
        for message_id, due_ms in due
    ]
    if commands:
        broker.calls(commands)


def read(broker: Publisher, message_id: str) -> State | None:
    """What is known of a message; None for nothing. Raises BrokerUnavailable."""
    return decode(broker.call("GET", keys.state(message_id)))


def forget(broker: Publisher, ids: Sequence[str]) -> None:
    """Drop what is known of messages. Raises BrokerUnavailable."""
    broker.calls([("DEL", keys.state(one)) for one in ids])


def decode(text: bytes | None) -> State | None:
    """A state as it is kept and told; None for what is none, and for one whose time has come."""
    try:
        found = _decode(text or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return None if found.state == SCHEDULED and found.due_ms <= now_ms() else found


def now_ms() -> int:
    """This host's wall clock, for what is shown to people; decides nothing."""
    return time.time_ns() // 1_000_000
