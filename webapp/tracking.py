"""The tracking ids of one request: taken from the client or made, and sent back on every answer."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from taskstream.logs import NOBODY, Running
from taskstream.message import MESSAGE_ID, new_id

TRACK = "taskstream.track"
"""Key in the WSGI environment: dict of ``request_id``, ``operation_id`` and ``request_ts`` (ISO 8601, UTC)."""

REQUEST: ContextVar[dict[str, Any] | None] = ContextVar("taskstream.request", default=None)
"""The WSGI environment of the request that is being answered."""

EVENT_APP = "taskstream.event_app"
"""Key in the WSGI environment: the event app that answers, set by its route."""


def track_of(environ: dict[str, Any]) -> dict[str, str]:
    """The tracking ids of this request, made at the first call.

    A client's ``X-Track-Request-Id`` is taken only if it is a well-formed id, because it goes into log lines.
    """
    found: dict[str, str] | None = environ.get(TRACK)
    if found is None:
        given = environ.get("HTTP_X_TRACK_REQUEST_ID", "")
        found = environ[TRACK] = {
            "request_id": given if MESSAGE_ID.fullmatch(given) else new_id(),
            "operation_id": new_id(),
            "request_ts": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
    return found


def of_request() -> Running | None:
    """What lines of an application's own loggers say of the request they were made in; None outside of any."""
    environ = REQUEST.get()
    if environ is None:
        return None
    return NOBODY, {f"track.{name}": value for name, value in track_of(environ).items()}


def headers_of(environ: dict[str, Any]) -> list[tuple[str, str]]:
    """The headers of every answer: the ids, and the event app that answered."""
    track = track_of(environ)
    found = [
        ("X-Track-Request-Id", track["request_id"]),
        ("X-Track-Operation-Id", track["operation_id"]),
        ("X-Track-Request-Ts", track["request_ts"]),
        ("X-Content-Type-Options", "nosniff"),
    ]
    event_app = environ.get(EVENT_APP)
    if event_app is not None:
        found.insert(3, ("X-Event-App", event_app))
    return found
