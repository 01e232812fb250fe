"""What a task is told of the message it runs: ``self.request``, made of the delivery when somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from taskstream.message import GROUP_HEADER, OWN_HEADERS, PARENT_HEADER, Delivery, Message
from taskstream.running import root_of

Decode = Callable[[bytes], tuple[Sequence[Any], Mapping[str, Any]]]

NOWHERE = Delivery(Message("", "", b"{}", attempt=1), "", "", "0-0", 0)
"""What a task is told that was called like any function: no message, first attempt."""


class Request:
    """The message whose handler runs. Cheap to make; what costs something is made when it is read."""

    __slots__ = ("_decode", "_delivery", "task", "worker")

    def __init__(self, delivery: Delivery, task: str, worker: str, decode: Decode) -> None:
        """``decode`` makes arguments of a message's body."""
        self._delivery = delivery
        self._decode = decode
        self.task = task
        """The task's name."""
        self.worker = worker
        """Name of the worker process; empty outside of one."""

    @property
    def called_directly(self) -> bool:
        """Whether there is no message: the task was called like any function, not run by a worker."""
        return self._delivery is NOWHERE

    @property
    def id(self) -> str:
        """The message's id, which is that of the result; empty if it was called directly."""
        return self._delivery.message.id

    @property
    def args(self) -> Sequence[Any]:
        """The positional arguments, as they were sent."""
        return self._decode(self._delivery.message.body)[0]

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """The named arguments, as they were sent."""
        return self._decode(self._delivery.message.body)[1]

    @property
    def attempt(self) -> int:
        """Which run this is, from 1; one more after every retry."""
        return self._delivery.message.attempt

    @property
    def retries(self) -> int:
        """How often it has been retried: ``attempt - 1``."""
        return self._delivery.message.attempt - 1

    @property
    def deliveries(self) -> int:
        """How often it was handed to a worker, from 1: more than ``attempt`` after workers died or gave it back."""
        return self._delivery.number

    @property
    def headers(self) -> dict[str, Any]:
        """The headers the message was sent with, without Taskstream's own."""
        found = self._delivery.message.headers or {}
        return {name: value for name, value in found.items() if not name.startswith(OWN_HEADERS)}

    @property
    def queue(self) -> str:
        """The queue it came by."""
        return self._delivery.stream

    @property
    def group(self) -> str | None:
        """Id of the group it is a member of, if any."""
        return self._own(GROUP_HEADER)

    @property
    def parent_id(self) -> str | None:
        """Id of the message whose run sent this one, if any."""
        return self._own(PARENT_HEADER)

    @property
    def root_id(self) -> str:
        """Id of the message that all of this began with; its own if nothing that ran has sent it."""
        return root_of(self._delivery.message)

    @property
    def sent(self) -> datetime:
        """When the message was first sent (UTC)."""
        return datetime.fromtimestamp(self._delivery.sent_ms / 1000, UTC)

    def _own(self, header: str) -> str | None:
        found = (self._delivery.message.headers or {}).get(header)
        return found if isinstance(found, str) else None

    def __repr__(self) -> str:
        return f"<Request {self.task} {self.id} attempt {self.attempt}>"
