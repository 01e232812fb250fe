"""Revoking from an app: which ids on which queues. What it does to them is the broker's and the workers' business."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from taskstream.app.result import AsyncResult
from taskstream.broker import Broker
from taskstream.control import Control
from taskstream.errors import ConfigError, ValidationError
from taskstream.handler import QUEUE_GROUP
from taskstream.keys import check_name
from taskstream.message import MESSAGE_ID


def by_queue(given: object, queue: str | None, queues: Sequence[str]) -> dict[str, list[str]]:
    """The ids of ``given`` (an id, a handle, or many of them) by the queue where each may be.

    ``queue`` is where all of them went, if it is known; a handle may know; else they may be on any of ``queues``.
    Raises ValidationError for what is no id.
    """
    if queue is not None:
        try:
            check_name("queue", queue)
        except ConfigError as error:
            raise ValidationError(f"revoke: {error}") from None
    many: Iterable[Any] = [given] if isinstance(given, (str, AsyncResult)) else given  # type: ignore[assignment]
    if not isinstance(many, Iterable):
        raise ValidationError(f"revoke: give an id, a result or many of them, not {given!r:.200}")
    found: dict[str, list[str]] = {}
    for one in many:
        places = queues if queue is None else (queue,)
        if isinstance(one, AsyncResult):
            places = (one.queues or queues) if queue is None else places
            one = one.id
        if not isinstance(one, str) or not MESSAGE_ID.fullmatch(one):
            raise ValidationError(f"revoke: {one!r:.200} is no id of a message: give the id of a result")
        for name in places:
            found.setdefault(name, []).append(one)
    return found


def revoke(broker: Broker, ids: dict[str, list[str]], terminate: bool) -> None:
    """Have none of ``ids`` run any more, by queue. Raises BrokerUnavailable; doing it again is safe."""
    control = Control(broker)
    for queue, some in ids.items():
        control.revoke(queue, QUEUE_GROUP, some, terminate)
