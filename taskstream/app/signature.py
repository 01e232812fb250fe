"""A call of a task that has not been sent: the task, its arguments and how to send it. Sends nothing by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import msgspec

from taskstream.app import sending
from taskstream.app.call_options import PLAIN, SendOptions, merged, refuse_unknown
from taskstream.app.result import AsyncResult
from taskstream.app.sending import Callee
from taskstream.broker import Envelope
from taskstream.errors import ValidationError
from taskstream.message import Message

if TYPE_CHECKING:
    from taskstream.app.canvas import Workflow


class Startable(Callee, Protocol):
    """What a signature needs of its task."""

    def start(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: SendOptions) -> AsyncResult[Any]:
        """Send one call. Raises ValidationError, BrokerUnavailable or QueueFull."""

    def fed_message(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        message_id: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Message:
        """``message`` of a call whose first argument is still to come, and is not in it."""

    def chained(self, first: Any, second: Any) -> Workflow:
        """A chain of a call of this task and what follows, or goes before."""

    @property
    def host(self) -> Any:
        """The app that the task is of."""


class Signature(msgspec.Struct, frozen=True):
    """What ``delay(*args, **kwargs)`` would send; made by ``task.s()``. Arguments are checked when it is sent.

    ``a.s() | b.s()`` is ``chain(a.s(), b.s())``. ``immutable``, as ``task.si()`` makes it: takes no further arguments,
    neither from ``delay`` nor from what comes before it in a workflow.
    """

    task: Startable
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: SendOptions = PLAIN
    immutable: bool = False

    def set(self, **options: Unpack[SendOptions]) -> Signature:
        """The same call with options of ``apply_async``; what is None here stays as it was."""
        refuse_unknown(f"{self.task.name}: set", options)
        return msgspec.structs.replace(self, options=merged(self.options, options))

    def with_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature:
        """The same call with ``args`` before its own, and ``kwargs`` beside them; unchanged if it is immutable."""
        if self.immutable or not (args or kwargs):
            return self
        return msgspec.structs.replace(self, args=(*args, *self.args), kwargs={**self.kwargs, **kwargs})

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Send the call, with these arguments before its own; return its handle.

        Raises as the task's ``apply_async`` does.
        """
        call = self.with_arguments(args, kwargs)
        return call.task.start(call.args, call.kwargs, call.options)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[SendOptions]
    ) -> AsyncResult[Any]:
        """``set`` with these options, then ``delay``."""
        refuse_unknown(f"{self.task.name}: apply_async", options)
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, Mapping | None):
            raise ValidationError(f"{self.task.name}: args is a list or tuple of arguments, kwargs a mapping of names")
        return self.set(**options).delay(*args, **(kwargs or {}))

    def __or__(self, other: Any) -> Workflow:
        return self.task.chained(self, other)


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
