"""Asks Redis whether a tick of a schedule is to be launched, and tells it that it was. Publishes nothing itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taskstream import keys
from taskstream.broker.script import Script
from taskstream.schedule import tick_id

FORGET_MS = 30 * 86_400_000
"""How long a schedule is remembered that no worker has asked for."""

REMEMBER_S = 3600
"""How long a process may take from the question whether a tick is to be launched to its launch."""

_TICK = Script("tick")


DUE = 1
SETTLED = 0
EARLY = -1


def ask(call: Callable[..., Any], queue: str, schedule: str, tick_ms: int) -> int:
    """DUE if nobody has launched this tick or a later one; else SETTLED, as for the first tick that is asked for of a
    schedule. EARLY: it is still to come, by Redis' clock."""
    return _run(call, queue, schedule, tick_ms, 0)


def launched(call: Callable[..., Any], queue: str, schedule: str, tick_ms: int) -> None:
    """It was; may be said again."""
    _run(call, queue, schedule, tick_ms, 1)


def _run(call: Callable[..., Any], queue: str, schedule: str, tick_ms: int, done: int) -> int:
    published = keys.published(queue, keys.unique_id(tick_id(schedule, tick_ms)))
    return int(_TICK.run(call, [keys.ticks(queue), published], [schedule, tick_ms, done, FORGET_MS, REMEMBER_S]))
