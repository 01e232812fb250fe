"""Looks after messages that wait for their turn, so that none waits for ever, whatever was deleted by hand.

One round trip each, over the caller that is passed in, as in taskstream.broker.group. Whose turn it is next is decided
by the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskstream import keys
from taskstream.broker.script import Script, whole
from taskstream.handler import QUEUE_GROUP

Call = Callable[..., Any]

LOOKED_AT = 100
"""Orders that may be stuck and are let go on in one turn, at most."""

_UNSTICK = Script("unstick")


def waiting(call: Call, stream: str) -> int:
    """How many messages of a queue wait for their turn."""
    return whole(call("HGET", keys.ordered(stream), ""))


def unstick(call: Call, stream: str) -> int:
    """Let orders go on if there is nothing in the queue but messages that wait for their turn; return how many."""
    lists = [one for one in call("HRANDFIELD", keys.ordered(stream), LOOKED_AT) if one]
    places = [
        stream,
        keys.again(stream, QUEUE_GROUP),
        keys.delayed(stream, QUEUE_GROUP),
        keys.ranked(stream, QUEUE_GROUP),
        keys.parking(stream),
        keys.ordered(stream),
        *(str(one, "utf-8") for one in lists),
    ]
    return max(0, int(_UNSTICK.run(call, places, [QUEUE_GROUP])))
