"""Decides what becomes of a message that ran, could not run, or is given back. Pure: no Redis, no disk.

Each function fills in a job's ``move`` and, where results are kept, its outcome.
"""

from __future__ import annotations

import base64
import json
import math
import random
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from taskstream import continuation, middleware
from taskstream.continuation import Failed
from taskstream.errors import InvalidMessage, MaxRetriesExceeded, Retry, Shutdown
from taskstream.handler import Successor
from taskstream.logs import type_name
from taskstream.message import ADMITTED_HEADER, DEATHS_HEADER, UNKNOWN_HEADER, Delivery, Message, fields_json
from taskstream.results.base import FAILURE, RETRY, REVOKED, SUCCESS, Failure, Outcome
from taskstream.retry import backoff_delay
from taskstream.running import MOST_PUBLISHED

from .membership import Job

MAX_UNKNOWN = 12
"""How often a message of an unknown name is put back before it is a dead letter; with the delays below about
ten minutes, for a rolling deploy to reach this worker."""

EXPIRED = "Expired"
"""Type of the failure of a message that was not started in time."""

UNKNOWN_BACKOFF_S = 1.0
UNKNOWN_BACKOFF_MAX_S = 120.0

NO_RETRY = (InvalidMessage, Shutdown)
"""Failures that nobody is asked about: a payload that cannot be decoded never changes."""

REVOKED_BEFORE = Failure("Revoked", "was revoked before it ran")

_NULL = msgspec.Raw(b"null")
_TRACEBACK_LIMIT = 64 * 1024
_MESSAGE_LIMIT = 64 * 1024
_NAME_LIMIT = 200


def now_ms() -> int:
    """This host's wall clock, for what is shown to people; decides nothing."""
    return time.time_ns() // 1_000_000


def succeed(job: Job, value: bytes | None, worker: str, keep: bool) -> None:
    """The handler returned; ``value`` is its JSON if it is kept."""
    job.move = "a"
    if keep:
        raw = msgspec.Raw(value) if value is not None else _NULL
        job.outcome = _outcome(job, SUCCESS, worker, raw, None)


def fail(job: Job, error: BaseException, worker: str, keep: bool) -> None:
    """The handler raised: again after a while if its middleware says so, else a dead letter."""
    handler = job.handler
    assert handler is not None
    delivery = job.delivery
    delay_s = None if isinstance(error, NO_RETRY) else middleware.delay_of(handler.middleware, job.seen(), error)
    if delay_s is not None:
        job.move = "r"
        job.delay_ms = int(delay_s * 1000)
        if isinstance(error, Retry):
            job.due_ms = error.due_ms or 0
        job.payload = fields_json(_again(delivery, attempt=delivery.message.attempt + 1))
        if keep:
            job.outcome = _outcome(job, RETRY, worker, _NULL, describe(failure_behind(job, error)))
    else:
        bury(job, describe(failure_behind(job, error)), worker, keep)


def failure_behind(job: Job, error: BaseException) -> BaseException:
    """What a run failed of, for people: of ``self.retry(exc=…)`` it is ``exc``."""
    if not isinstance(error, Retry):
        return error
    if error.cause is None and job.move != "r":
        retries = job.delivery.message.attempt - 1
        return MaxRetriesExceeded(f"was tried again {retries} times, which is all of max_retries")
    return error.cause or error


def postpone(job: Job, seconds: float, told_us: str | None = None) -> None:
    """The message did not run, and is to be read again in ``seconds``.

    ``told_us``: its rate told it to come at that very time (us since the epoch, Redis' clock).
    """
    job.move = "r"
    job.outcome = None
    job.delay_ms = math.ceil(seconds * 1000)
    job.due_ms = 0 if told_us is None else -(-int(told_us) // 1000)
    job.payload = _unrun(job.delivery, told_us)


def park(job: Job) -> None:
    """The message did not run, and waits for a slot that its tie is about."""
    job.move = "w"
    job.outcome = None
    job.payload = _unrun(job.delivery, None)


def _unrun(delivery: Delivery, admitted: str | None) -> str:
    headers = None if admitted is None else {**(delivery.message.headers or {}), ADMITTED_HEADER: admitted}
    return fields_json(_again(delivery, deliveries=delivery.number - 1, headers=headers))


def revoke(job: Job, failure: Failure, worker: str, keep: bool) -> None:
    """The message is not wanted any more: done without a run and without a dead letter."""
    job.move = "a"
    job.successors = ()
    if keep:
        job.outcome = _outcome(job, REVOKED, worker, _NULL, failure)
    pass_on(job, REVOKED, failure)


def give_back(job: Job, *, started: bool) -> None:
    """The message goes back unrun, or interrupted by the end of the grace time."""
    job.move = "g"
    job.outcome = None
    delivery = job.delivery
    job.payload = fields_json(_again(delivery, deliveries=delivery.number if started else delivery.number - 1))


def put_back_unknown(job: Job, worker: str, keep: bool) -> bool:
    """No handler here knows the name: later, maybe elsewhere; False if that was tried often enough."""
    message = job.delivery.message
    headers = dict(message.headers or {})
    count = headers.get(UNKNOWN_HEADER, 0)
    # Anybody can have written it.
    count = count if isinstance(count, int) and 0 <= count < MAX_UNKNOWN else MAX_UNKNOWN
    if count >= MAX_UNKNOWN:
        bury(job, Failure("UnknownHandler", f"no handler is called {message.name!r}"), worker, keep)
        return False
    headers[UNKNOWN_HEADER] = count + 1
    job.move = "r"
    job.delay_ms = int(
        1000
        * backoff_delay(
            count, base=UNKNOWN_BACKOFF_S, maximum=UNKNOWN_BACKOFF_MAX_S, jitter=False, uniform=random.uniform
        )
    )
    job.payload = fields_json(_again(job.delivery, headers=headers))
    return True


def bury(job: Job, failure: Failure, worker: str, keep: bool) -> None:
    """A dead letter without another run."""
    job.move = "d"
    job.payload = letter(job, failure, worker)
    if keep:
        job.outcome = _outcome(job, FAILURE, worker, _NULL, failure)
    pass_on(job, FAILURE, failure)


def expire(job: Job, worker: str, keep: bool) -> None:
    """It was too late to start it."""
    assert job.expires_ms is not None
    at = datetime.fromtimestamp(job.expires_ms / 1000, UTC).isoformat(timespec="milliseconds")
    revoke(job, Failure(EXPIRED, f"it was not to be started after {at}"), worker, keep)


def pass_on(job: Job, state: str, failure: Failure) -> None:
    """What follows a message of a workflow is to hear that it has failed for good."""
    message = job.delivery.message
    if continuation.has_followers(message):
        failed = continuation.failed_with(message, state, failure.type, failure.message, failure.traceback)
        job.successors = continuation.after_failure(message, failed)


def end_unrun(job: Job, failed: Failed, worker: str, keep: bool) -> None:
    """What the message was to follow has failed: it ends as that did, and passes it on.

    It is no dead letter: when what failed is requeued and succeeds, the message comes again to be run. So the outcome
    is that of delivery 0, which any real one replaces, whichever is written first.
    """
    job.move = "a"
    if keep:
        failure = Failure(failed.type, failed.message, failed.traceback)
        outcome = _outcome(job, failed.state, worker, _NULL, failure)
        job.outcome = msgspec.structs.replace(outcome, delivery=0, attempts=0)
    job.successors = continuation.after_failure(job.delivery.message, failed)


def describe(error: BaseException) -> Failure:
    """Type, text and traceback of an exception, each bounded. Never raises, whatever code the exception brings."""
    return Failure(
        _safe(type_name(error)[:_NAME_LIMIT]),
        _told("text", lambda: str(error), _MESSAGE_LIMIT),
        _told("traceback", lambda: "".join(traceback.format_exception(error)), _TRACEBACK_LIMIT),
    )


def _told(what: str, tell: Callable[[], str], limit: int) -> str:
    try:
        text = tell()
        if len(text) > limit:
            text = f"{text[: limit // 2]}\n…\n{text[-limit // 2 :]}"
        return _safe(text)
    except BaseException as broken:
        return f"(its {what} cannot be had: {type_name(broken)})"


def letter(job: Job, failure: Failure, worker: str) -> str:
    """A dead letter as JSON: the message's fields (its earlier deaths among their headers), and why it died."""
    delivery = job.delivery
    message = delivery.message
    return json.dumps(
        {
            "id": message.id,
            "name": message.name,
            "handler": job.handler.name if job.handler is not None else None,
            "fields": json.loads(fields_json(_again(delivery))),
            "attempts": message.attempt,
            "deliveries": delivery.number,
            "deaths": delivery.deaths,
            "sent_ms": delivery.sent_ms,
            "worker": worker,
            "error": {"type": failure.type, "message": failure.message, "traceback": failure.traceback},
        },
        ensure_ascii=False,
    )


def bury_unreadable(job: Job, fields: Sequence[bytes], reason: str, worker: str) -> None:
    """An entry that is no Taskstream message becomes a dead letter under its entry's id, with its raw fields."""
    delivery = job.delivery
    job.move = "d"
    found = {
        "id": delivery.message.id,
        "name": None,
        "fields": [field.decode(errors="backslashreplace") for field in fields],
        "attempts": 0,
        "deliveries": delivery.number,
        "deaths": delivery.deaths,
        "sent_ms": delivery.sent_ms,
        "worker": worker,
        "error": {"type": "InvalidMessage", "message": reason, "traceback": ""},
    }
    if not _is_text(fields):
        # JSON holds text only, and whoever requeues it has to get back what was there.
        found["raw"] = [base64.b64encode(field).decode() for field in fields]
    job.payload = json.dumps(found, ensure_ascii=False)


def _is_text(fields: Sequence[bytes]) -> bool:
    try:
        b"".join(field + b"\n" for field in fields).decode()
    except UnicodeDecodeError:
        return False
    return True


def _again(
    delivery: Delivery,
    *,
    attempt: int | None = None,
    deliveries: int | None = None,
    headers: dict[str, object] | None = None,
) -> Message:
    message = delivery.message
    if attempt is not None and message.headers and ADMITTED_HEADER in message.headers:
        # Each run is asked for.
        headers = {name: value for name, value in message.headers.items() if name != ADMITTED_HEADER}
    if delivery.deaths:
        headers = {**((message.headers if headers is None else headers) or {}), DEATHS_HEADER: delivery.deaths}
    return Message(
        message.id,
        message.name,
        message.body,
        message.headers if headers is None else headers,
        message.attempt if attempt is None else attempt,
        delivery.number if deliveries is None else deliveries,
        delivery.sent_ms,
        message.priority,
        delivery.expires_ms,
    )


def _outcome(job: Job, state: str, worker: str, value: msgspec.Raw, error: Failure | None) -> Outcome:
    delivery = job.delivery
    message = delivery.message
    finished = now_ms()
    request_id = message.headers.get("request_id") if message.headers else None
    return Outcome(
        message.id,
        delivery.group,
        job.handler.name if job.handler is not None else message.name,
        state,
        delivery.number,
        message.attempt,
        delivery.sent_ms,
        job.started_ms or finished,
        finished,
        worker,
        value,
        error,
        request_id if isinstance(request_id, str) else None,
        children_of(job) if delivery.published or job.successors else msgspec.UNSET,
    )


def children_of(job: Job) -> list[str] | msgspec.UnsetType:
    """Ids of what a run has sent, and of what is published because it has ended."""
    found = list(job.delivery.published or ())
    found += [one.message.id for one in job.successors if isinstance(one, Successor)]
    return found[:MOST_PUBLISHED] or msgspec.UNSET


def _safe(text: str) -> str:
    return str.encode(text, "utf-8", "backslashreplace").decode()
