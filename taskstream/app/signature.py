"""A call of a task that has not been sent: the task, its arguments and how to send it. Sends nothing by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Unpack

import msgspec

from taskstream.app import sending
from taskstream.app.call_options import PLAIN, SendOptions, merged, refuse_unknown
from taskstream.app.result import AsyncResult
from taskstream.app.sending import Callee
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

    def set(self, **options: Unpack[SendOptions]) -> Signature:
        """The same call with options of ``apply_async``; what is None here stays as it was."""
        refuse_unknown(f"{self.task.name}: set", options)
        return Signature(self.task, self.args, self.kwargs, merged(self.options, options))

    def delay(self) -> AsyncResult[Any]:
        """Send the call; return its handle. Raises as the task's ``apply_async`` does."""
        return self.task.start(self.args, self.kwargs, self.options)

    def apply_async(self, **options: Unpack[SendOptions]) -> AsyncResult[Any]:
        """``set`` with these options, then ``delay``."""
        refuse_unknown(f"{self.task.name}: apply_async", options)
        return self.set(**options).delay()


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
