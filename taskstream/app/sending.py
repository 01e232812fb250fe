"""How one call is sent: its options, and the envelope they make. Sends nothing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Protocol

import msgspec

from taskstream import keys
from taskstream.broker import Envelope
from taskstream.broker.publisher import Sent
from taskstream.errors import BrokerUnavailable, ConfigError, QueueFull, TaskstreamError, ValidationError, one_line
from taskstream.message import MESSAGE_ID, OWN_HEADERS, Message, check_headers

BATCH = 500
"""Messages in one round trip of ``enqueue_many``."""

MAX_KEY_BYTES = 512
"""Length of an idempotency key in UTF-8."""

TO_COME = ("countdown", "eta", "expires", "priority")
"""Options that Celery has and a later release will have."""
OF_THE_TASK = {"time_limit": "hard_timeout", "soft_time_limit": "timeout", "ignore_result": "ignore_result"}
"""Options of a call in Celery, and what they are called in ``@app.task`` here."""


class Callee(Protocol):
    """What sending needs of a task."""

    @property
    def name(self) -> str:
        """The task's name."""

    @property
    def queue(self) -> str:
        """The queue its messages go to unless a call says otherwise."""

    def message(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        message_id: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Message:
        """The message of one call, with an id of its own unless one is given. Raises ValidationError."""


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``apply_async`` and ``Signature.set``."""

    task_id: str | None = None
    idempotency_key: str | None = None
    queue: str | None = None
    headers: Mapping[str, Any] | None = None


PLAIN = SendOptions()


def refuse_unknown(where: str, unknown: Mapping[str, object]) -> None:
    """Raise ValidationError for options there are not, saying what to do instead."""
    known = ", ".join(SendOptions.__struct_fields__)
    errors: dict[str, object] = {}
    for name in unknown:
        if name in TO_COME:
            errors[name] = ["is not in this release; a later one will have it"]
        elif name in OF_THE_TASK:
            errors[name] = [f"is an option of the task: @app.task({OF_THE_TASK[name]}=…)"]
        else:
            errors[name] = [f"there is no such option, only {known}"]
    if errors:
        raise ValidationError(f"{where}: {one_line(errors)}", errors)


class Sender(Protocol):
    """The broker, or the outbox before it."""

    def try_many(self, envelopes: Sequence[Envelope]) -> Sent:
        """Send in order; say what became of each."""


def envelope(task: Callee, args: Sequence[Any], kwargs: Mapping[str, Any], options: SendOptions) -> Envelope:
    """What to send for one call. Raises ValidationError naming the argument or option that does not fit."""
    if not isinstance(args, (list, tuple)):
        _refuse(task, "args", f"{args!r:.200} is no list or tuple of arguments")
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        _refuse(task, "kwargs", f"{kwargs!r:.200} is no mapping of names to arguments")
    if options is PLAIN:
        return Envelope(task.queue, task.message(args, kwargs))
    uniques: list[str] = []
    if options.task_id is not None:
        if not isinstance(options.task_id, str) or not MESSAGE_ID.fullmatch(options.task_id):
            _refuse(
                task,
                "task_id",
                f"{options.task_id!r:.200} is not text of 1 to 128 letters, digits and . _ : - characters",
            )
        uniques.append(keys.unique_id(options.task_id))
    if options.idempotency_key is not None:
        uniques.append(keys.unique_key(_checked_key(task, options.idempotency_key)))
    queue = task.queue
    if options.queue is not None:
        try:
            queue = keys.check_name("queue", options.queue)
        except ConfigError as error:
            _refuse(task, "queue", str(error))
    headers = None
    if options.headers:
        try:
            headers = check_headers(options.headers)
        except ValidationError as error:
            _refuse(task, "headers", str(error))
        if reserved := [name for name in headers if name.startswith(OWN_HEADERS)]:
            _refuse(task, "headers", f"{reserved[0]!r:.200}: names beginning with {OWN_HEADERS} are reserved")
    return Envelope(queue, task.message(args, kwargs, options.task_id, headers), tuple(uniques))


def _checked_key(task: Callee, key: object) -> str:
    if not isinstance(key, str) or not key:
        _refuse(task, "idempotency_key", f"{key!r:.200} is not text of at least one character")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        _refuse(task, "idempotency_key", f"{key!r:.200} has a lone surrogate, which is no text in UTF-8")
    if size > MAX_KEY_BYTES:
        _refuse(task, "idempotency_key", f"it is {size} bytes long, at most {MAX_KEY_BYTES} are taken")
    return key


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
