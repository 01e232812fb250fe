"""What a message is tied to besides its place in the stream: what its end in a group lets go of, or hands on.

Read from the message itself, so that whoever ends it unties it, whether its task is known there or not. What each
kind of tie does is in commit.lua. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from taskstream import keys
from taskstream.message import ORDER_HEADER, UNIQUE_HEADER


class Tie(NamedTuple):
    """One tie.

    ``what`` names the function of commit.lua, ``argument`` is for it; ``keys`` are of the message's stream.
    """

    what: str
    argument: str
    keys: tuple[str, ...]


def ties_of(stream: str, message_id: str, headers: Mapping[str, Any]) -> tuple[Tie, ...]:
    """The ties of a message on a task queue. Headers that no sender writes so tie nothing."""
    found: tuple[Tie, ...] = ()
    ordering_key, call = headers.get(ORDER_HEADER), headers.get(UNIQUE_HEADER)
    if isinstance(ordering_key, str):
        found += (Tie("order", message_id, (keys.order(stream, ordering_key), keys.ordered(stream))),)
    if isinstance(call, str):
        found += (Tie("unique", message_id, (keys.published(stream, keys.unique_call(call)),)),)
    return found


def ties_of_fields(stream: str, fields: Sequence[bytes]) -> tuple[Tie, ...]:
    """The same of an entry that is no message any more, as far as it still says so."""
    found = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        headers = msgspec.json.decode(found.get(b"headers", b"{}"))
        message_id = found.get(b"id", b"").decode()
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        return ()
    return ties_of(stream, message_id, headers) if isinstance(headers, dict) else ()
