"""The options of one call: of ``apply_async``, ``Signature.set`` and ``enqueue_many``. Checks them; sends nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, TypedDict, cast

from taskstream import keys
from taskstream.errors import ConfigError, ValidationError, one_line
from taskstream.message import MESSAGE_ID, OWN_HEADERS, PRIORITIES, PRIORITY, check_headers

MAX_KEY_BYTES = 512
"""Length of an idempotency key and of an ordering key in UTF-8."""

MAX_S = 100 * 366 * 86_400.0
"""The longest ``countdown`` and ``expires`` (s): a century."""

OF_THE_TASK = {"time_limit": "hard_timeout", "soft_time_limit": "timeout", "ignore_result": "ignore_result"}
"""Options of a call in Celery, and what they are called in ``@app.task`` here."""


class SendOptions(TypedDict, total=False):
    """The options of a call; None is as good as absent.

    ``task_id`` is the message's id; ``idempotency_key`` any text of up to 512 bytes. With either, a call that repeats
    one of the last 24 h on the same queue sends nothing, whatever its arguments, and returns the handle of the first.
    ``queue`` goes before the task's own. ``headers`` (names to JSON values) travel with the message.

    ``countdown`` (s) or ``eta`` (a datetime with a time zone): not before that, by Redis' clock. ``expires`` (s from
    the sending, or a datetime with a time zone): not after that; the call ends as REVOKED then. ``priority``: from 0
    (first) to 9, 5 unless said. ``ordering_key`` (text of up to 512 bytes): calls on one queue with the same one run
    one after the other, in the order they were sent.
    """

    task_id: str | None
    idempotency_key: str | None
    queue: str | None
    headers: Mapping[str, Any] | None
    countdown: float | None
    eta: datetime | None
    expires: float | datetime | None
    priority: int | None
    ordering_key: str | None


PLAIN: SendOptions = {}


class Checked(NamedTuple):
    """Options that can be used. ``delay_ms`` and ``expires_in_ms`` count from the sending, the others are absolute."""

    task_id: str | None
    uniques: tuple[str, ...]
    queue: str | None
    headers: dict[str, Any] | None
    delay_ms: int | None
    due_ms: int | None
    expires_in_ms: int | None
    expires_ms: int | None
    priority: int
    ordering_key: str | None


def refuse_unknown(where: str, given: Mapping[str, object]) -> None:
    """Raise ValidationError for options there are not, saying what to do instead."""
    errors: dict[str, object] = {}
    for name in given:
        if name in OF_THE_TASK:
            errors[name] = [f"is an option of the task: @app.task({OF_THE_TASK[name]}=…)"]
        elif name not in SendOptions.__annotations__:
            errors[name] = [f"there is no such option, only {', '.join(SendOptions.__annotations__)}"]
    if errors:
        raise ValidationError(f"{where}: {one_line(errors)}", errors)


def merged(options: SendOptions, changes: SendOptions) -> SendOptions:
    """``options`` with what ``changes`` says; what is None there stays as it was.

    A new ``countdown`` goes in the place of an ``eta``, and the other way round.
    """
    said: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    kept = dict(options)
    for one, other in (("countdown", "eta"), ("eta", "countdown")):
        if one in said and other not in said:
            kept.pop(other, None)
    return cast(SendOptions, kept | said)


def check(task: str, options: SendOptions) -> Checked:
    """What the options of a call of ``task`` come to. Raises ValidationError naming the option that cannot be used."""

    def refuse(option: str, reason: str) -> NoReturn:
        raise ValidationError(f"{task}: {option}: {reason}", {option: [reason]})

    uniques: list[str] = []
    task_id = options.get("task_id")
    if task_id is not None:
        if not isinstance(task_id, str) or not MESSAGE_ID.fullmatch(task_id):
            refuse("task_id", f"{task_id!r:.200} is not text of 1 to 128 letters, digits and . _ : - characters")
        uniques.append(keys.unique_id(task_id))
    if (key := options.get("idempotency_key")) is not None:
        uniques.append(keys.unique_key(_text("idempotency_key", key, refuse)))
    queue = options.get("queue")
    if queue is not None:
        try:
            keys.check_name("queue", queue)
        except ConfigError as error:
            refuse("queue", str(error))
    delay_ms, due_ms = _when(options, refuse)
    expires_in_ms, expires_ms = _until(options.get("expires"), refuse)
    priority = options.get("priority")
    if priority is None:
        priority = PRIORITY
    elif type(priority) is not int or priority not in PRIORITIES:
        refuse("priority", f"{priority!r:.200} is no whole number from {PRIORITIES[0]} (first) to {PRIORITIES[-1]}")
    ordering_key = options.get("ordering_key")
    if ordering_key is not None:
        _text("ordering_key", ordering_key, refuse)
        if delay_ms is not None or due_ms is not None:
            refuse("ordering_key", "what has its place in an order takes no countdown or eta: give one of them only")
    return Checked(
        task_id,
        tuple(uniques),
        queue,
        _headers(options.get("headers"), refuse),
        delay_ms,
        due_ms,
        expires_in_ms,
        expires_ms,
        priority,
        ordering_key,
    )


Refuse = Callable[[str, str], NoReturn]


def _when(options: SendOptions, refuse: Refuse) -> tuple[int | None, int | None]:
    """``delay_ms`` and ``due_ms``."""
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown is not None:
        if eta is not None:
            refuse("eta", "give either countdown or eta, not both")
        return _ms("countdown", countdown, refuse), None
    return None, None if eta is None else _at("eta", eta, refuse)


def _until(expires: object, refuse: Refuse) -> tuple[int | None, int | None]:
    """``expires_in_ms`` and ``expires_ms``."""
    if expires is None:
        return None, None
    if isinstance(expires, datetime):
        return None, _at("expires", expires, refuse)
    return _ms("expires", expires, refuse), None


def _ms(option: str, value: object, refuse: Refuse) -> int:
    """Seconds as ms; a fraction of one is rounded up, so that nothing comes before its time."""
    if type(value) not in (int, float) or not 0 <= cast(float, value) <= MAX_S:
        also = "" if option == "countdown" else ", or a datetime with a time zone"
        refuse(option, f"{value!r:.200} is no number of seconds from 0 to {MAX_S:.0f} (a century){also}")
    return math.ceil(cast(float, value) * 1000)


def _at(option: str, value: object, refuse: Refuse) -> int:
    if not isinstance(value, datetime):
        refuse(option, f"{value!r:.200} is no datetime")
    if value.utcoffset() is None:
        refuse(option, f"{value!r} has no time zone: give one, as in datetime.now(timezone.utc) + timedelta(hours=1)")
    # Before 1970: long past, and the wire has no sign for it.
    return max(0, math.ceil(value.timestamp() * 1000))


def _headers(given: Mapping[str, Any] | None, refuse: Refuse) -> dict[str, Any] | None:
    if not given:
        return None
    try:
        headers = check_headers(given)
    except ValidationError as error:
        refuse("headers", str(error))
    if reserved := [name for name in headers if name.startswith(OWN_HEADERS)]:
        refuse("headers", f"{reserved[0]!r:.200}: names beginning with {OWN_HEADERS} are reserved")
    return headers


def _text(option: str, key: object, refuse: Refuse) -> str:
    if not isinstance(key, str) or not key:
        refuse(option, f"{key!r:.200} is not text of at least one character")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        refuse(option, f"{key!r:.200} has a lone surrogate, which is no text in UTF-8")
    if size > MAX_KEY_BYTES:
        refuse(option, f"it is {size} bytes long, at most {MAX_KEY_BYTES} are taken")
    return key
