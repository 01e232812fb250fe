"""The body of ``POST /api/tasks/{name}``: ``args``, ``kwargs`` and ``options``, told apart and checked by their kind.

What arguments and options mean is the task's business; here they only become what ``apply_async`` takes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from taskstream.errors import one_line
from taskstream.openapi.tasks import OPTIONS as DESCRIBED
from taskstream.scalars import Mismatch, read_datetime

from .errors import Problem

OPTIONS = frozenset(DESCRIBED["properties"])
"""The options of ``apply_async`` that make sense over HTTP: those that the document describes."""

FROM_THE_REQUEST = ("request_id", "operation_id", "request_ts")
"""Headers of the message that say which request it came from."""

MOMENT = "Not a date and time with an offset, such as 2026-07-02T16:30:00Z."


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """A call as it came. ``options`` is checked by ``options_of``."""

    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    options: dict[str, Any] = {}


_decode = msgspec.json.Decoder(Call).decode
_decode_any = msgspec.json.Decoder().decode
_KINDS: dict[str, tuple[type, str]] = {
    "args": (list, "Not a valid list."),
    "kwargs": (dict, "Not a valid object."),
    "options": (dict, "Not a valid object."),
}


def read_call(body: bytes) -> Call:
    """The call in a body; one without anything in an empty body. Raises Problem 400 naming what is wrong."""
    if not body:
        return Call()
    try:
        return _decode(body)
    except RecursionError:
        raise Problem(400, "the payload is nested too deeply") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _explained(body, error) from None


def _explained(body: bytes, error: Exception) -> Problem:
    try:
        found = _decode_any(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Problem(400, f"the payload is not valid JSON: {error}")
    if not isinstance(found, dict):
        return Problem(400, 'the payload is not an object such as {"args": [], "kwargs": {}, "options": {}}')
    errors: dict[str, object] = {}
    for name, value in found.items():
        kind = _KINDS.get(name)
        if kind is None:
            errors[name[:200]] = [f"Unknown key: there are only {', '.join(_KINDS)}."]
        elif not isinstance(value, kind[0]):
            errors[name] = [kind[1]]
    return refused(errors) if errors else Problem(400, f"the payload is not valid JSON: {error}")


def options_of(given: Mapping[str, Any], track: Mapping[str, str], key: str | None) -> dict[str, Any]:
    """Options for ``apply_async``, with the ids of the request in the headers and ``key`` from Idempotency-Key.

    Raises Problem 400 naming an option that there is not, or that is no JSON form of what it should be.
    """
    headers: dict[str, Any] = dict(track)
    if not given and key is None:
        return {"headers": headers}
    errors: dict[str, object] = {}
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in OPTIONS:
            errors[name[:200]] = [f"Unknown option: there are only {', '.join(sorted(OPTIONS))}."]
        elif value is not None:
            try:
                found[name] = _READERS[name](value) if name in _READERS else value
            except Mismatch:
                errors[name] = [MOMENT]
    own = found.get("headers", {})
    if isinstance(own, dict):
        found["headers"] = {**own, **headers}
        if taken := [name for name in FROM_THE_REQUEST if name in own]:
            errors["headers"] = [f"{taken[0]} is taken from the request's X-Track headers."]
    else:
        errors["headers"] = ["Not a valid object."]
    if key is not None and found.setdefault("idempotency_key", key) != key:
        errors["idempotency_key"] = ["Is not what the header Idempotency-Key says."]
    if errors:
        raise refused({"options": errors})
    return found


def refused(errors: dict[str, object]) -> Problem:
    """400 that names the fields."""
    return Problem(400, one_line(errors), errors=errors)


def _expires(value: Any) -> float | dt.datetime:
    return value if isinstance(value, int | float) else read_datetime(value)


_READERS: dict[str, Callable[[Any], Any]] = {"eta": read_datetime, "expires": _expires}
