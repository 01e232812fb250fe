"""Which message runs here: known to whatever its handler calls, in greenlets, on the event loop and in its threads.

Only the delivery is kept; everything else is made of it when somebody asks. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, ContextVar
from typing import Any, TypeVar

from taskstream.message import PARENT_HEADER, ROOT_HEADER, Delivery, Message

T = TypeVar("T")

TRACKING = ("request_id", "operation_id", "request_ts")
"""Headers that go from a message to what its run sends."""

MOST_PUBLISHED = 10_000
"""Of a run that sends more, the ids of the first so many are kept."""

RUNNING: ContextVar[Delivery | None] = ContextVar("taskstream_running", default=None)
"""The delivery whose handler runs in this context; None outside of one."""


def run_alone(run: Callable[[Delivery], T], delivery: Delivery) -> T:
    """``run(delivery)`` in a context of its own, where that is what runs. How every handler is run."""
    context = Context()
    context.run(RUNNING.set, delivery)
    return context.run(run, delivery)


def followed(parent: Delivery, headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Headers of a message that the run of ``parent`` sends with ``headers`` of its own."""
    message = parent.message
    known = message.headers or {}
    found: dict[str, Any] = {name: known[name] for name in TRACKING if name in known}
    found.update(headers or {})
    found[PARENT_HEADER] = message.id
    root = root_of(message)
    if root != message.id:
        found[ROOT_HEADER] = root
    return found


def root_of(message: Message) -> str:
    """Id of the message that all of this began with; its own for one that nothing published."""
    known = message.headers or {}
    return str(known.get(ROOT_HEADER) or known.get(PARENT_HEADER) or message.id)


def note_published(ids: Iterable[str]) -> None:
    """Remember what the running message has sent; nothing outside of a run."""
    running = RUNNING.get()
    if running is not None:
        if running.published is None:
            running.published = []
        for one in ids:
            if len(running.published) < MOST_PUBLISHED:
                running.published.append(one)
