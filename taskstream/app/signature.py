"""A call of a task that has not been sent: the task, its arguments and how to send it. Sends nothing by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Never, Protocol

import msgspec

from taskstream.app import sending
from taskstream.app.result import AsyncResult
from taskstream.app.sending import PLAIN, Callee, SendOptions
from taskstream.broker import Envelope
from taskstream.errors import ValidationError


class Startable(Callee, Protocol):
    """What a signature needs of its task."""

    def start(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: SendOptions) -> AsyncResult[Any]:
        """Send one call. Raises ValidationError, BrokerUnavailable or QueueFull."""


class Signature(msgspec.Struct, frozen=True):
    """What ``delay(*args, **kwargs)`` would send; made by ``task.s()``. Arguments are checked when it is sent."""

    task: Startable
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: SendOptions = PLAIN

    def set(
        self,
        *,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        queue: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **unknown: Never,
    ) -> Signature:
        """The same call with options of ``apply_async``; what is None here stays as it was."""
        sending.refuse_unknown(f"{self.task.name}: set", unknown)
        given = {"task_id": task_id, "idempotency_key": idempotency_key, "queue": queue, "headers": headers}
        changed = {name: value for name, value in given.items() if value is not None}
        return Signature(self.task, self.args, self.kwargs, msgspec.structs.replace(self.options, **changed))

    def delay(self) -> AsyncResult[Any]:
        """Send the call; return its handle. Raises as the task's ``apply_async`` does."""
        return self.task.start(self.args, self.kwargs, self.options)

    def apply_async(
        self,
        *,
        task_id: str | None = None,
        idempotency_key: str | None = None,
        queue: str | None = None,
        headers: Mapping[str, Any] | None = None,
        **unknown: Never,
    ) -> AsyncResult[Any]:
        """``set`` with these options, then ``delay``."""
        sending.refuse_unknown(f"{self.task.name}: apply_async", unknown)
        return self.set(task_id=task_id, idempotency_key=idempotency_key, queue=queue, headers=headers).delay()


def envelopes(signatures: Iterable[Signature]) -> list[Envelope]:
    """What to send for many calls. Raises ValidationError for what is no call, and for one that does not fit."""
    if not isinstance(signatures, Iterable):
        raise ValidationError(f"enqueue_many: give calls, as in (task.s(x) for x in …), not {signatures!r:.200}")
    found: list[Envelope] = []
    for index, one in enumerate(signatures):
        if not isinstance(one, Signature):
            raise ValidationError(f"enqueue_many: item {index} is {one!r:.200}, which is no call: give task.s(…)")
        found.append(sending.envelope(one.task, one.args, one.kwargs, one.options))
    return found
