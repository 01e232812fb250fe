"""The envelope that a call and its options make, and how many are sent in batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, Protocol

import msgspec

from taskstream import keys
from taskstream.app.call_options import SendOptions, check
from taskstream.broker import Envelope
from taskstream.broker.publisher import Sent
from taskstream.errors import BrokerUnavailable, QueueFull, TaskstreamError, ValidationError
from taskstream.message import ORDER_HEADER, UNIQUE_HEADER, Message

BATCH = 500
"""Messages in one round trip of ``enqueue_many``."""

_TEXT = frozenset({str})


class Callee(Protocol):
    """What sending needs of a task."""

    @property
    def name(self) -> str:
        """The task's name."""

    @property
    def queue(self) -> str:
        """The queue its messages go to unless a call says otherwise."""

    @property
    def unique(self) -> bool:
        """Whether a call waits or runs once only."""

    def call_digest(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The same for calls that say the same. Raises ValidationError."""

    def message(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        message_id: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Message:
        """The message of one call, with an id of its own unless one is given. Raises ValidationError."""


class Sender(Protocol):
    """The broker, or the outbox before it."""

    def try_many(self, envelopes: Sequence[Envelope]) -> Sent:
        """Send in order; say what became of each."""


def envelope(task: Callee, args: Sequence[Any], kwargs: Mapping[str, Any], options: SendOptions) -> Envelope:
    """What to send for one call. Raises ValidationError naming the argument or option that does not fit."""
    if not isinstance(args, (list, tuple)):
        _refuse(task, "args", f"{args!r:.200} is no list or tuple of arguments")
    # The exact types first: asking an abstract class, and a generator, cost as much as encoding the call.
    if not (type(kwargs) is dict or isinstance(kwargs, Mapping)) or not _all_text(kwargs):
        _refuse(task, "kwargs", f"{kwargs!r:.200} is no mapping of names to arguments")
    if not options and not task.unique:
        return Envelope(task.queue, task.message(args, kwargs))
    said = check(task.name, options)
    message = task.message(args, kwargs, said.task_id, said.headers)
    uniques, headers = said.uniques, dict(message.headers or {})
    if task.unique:
        call = task.call_digest(args, kwargs)
        uniques = (*uniques, keys.unique_call(call))
        headers[UNIQUE_HEADER] = call
    if said.ordering_key is not None:
        headers[ORDER_HEADER] = said.ordering_key
    message = msgspec.structs.replace(
        message,
        headers=headers or None,
        priority=said.priority,
        expires_ms=said.expires_ms,
        expires_in_ms=said.expires_in_ms,
    )
    queue = task.queue if said.queue is None else said.queue
    return Envelope(queue, message, uniques, delay_ms=said.delay_ms, due_ms=said.due_ms, ordering_key=said.ordering_key)


def _all_text(names: Iterable[Any]) -> bool:
    return _TEXT.issuperset(map(type, names)) or all(isinstance(name, str) for name in names)


def _refuse(task: Callee, option: str, reason: str) -> NoReturn:
    raise ValidationError(f"{task.name}: {option}: {reason}", {option: [reason]})


def send_in_batches(sender: Sender, envelopes: Sequence[Envelope], max_length: int | None) -> Sent:
    """Send all in order, up to the first batch that was not sent whole."""
    ids: list[str | None] = []
    for start in range(0, len(envelopes), BATCH):
        batch = envelopes[start : start + BATCH]
        if max_length is not None:
            batch = [envelope._replace(max_length=max_length) for envelope in batch]
        found, error = sender.try_many(batch)
        ids += found
        if error is not None:
            return Sent(ids, error)
    return Sent(ids)


def with_sent(error: TaskstreamError, handles: list[Any], total: int) -> TaskstreamError:
    """The error that stopped a call that sends many, telling which were sent for certain."""
    error.args = (f"{error} ({len(handles)} of {total} messages were sent for certain)",)
    if isinstance(error, BrokerUnavailable | QueueFull):
        error.sent = handles
    if isinstance(error, BrokerUnavailable):
        error.maybe_sent |= bool(handles)
    return error
