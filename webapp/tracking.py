"""The tracking ids of one request: taken from the client or made, and sent back on every answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import has_request_context, request
from werkzeug.datastructures import Headers

from taskstream.logs import NOBODY, Running
from taskstream.message import MESSAGE_ID, new_id

TRACK = "taskstream.track"
"""Key in the WSGI environment: dict of ``request_id``, ``operation_id`` and ``request_ts`` (ISO 8601, UTC)."""

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
    if not has_request_context():
        return None
    return NOBODY, {f"track.{name}": value for name, value in track_of(request.environ).items()}


def add_headers(environ: dict[str, Any], headers: Headers) -> None:
    """Put the ids, and the event app that answered, on an answer's ``headers``."""
    track = track_of(environ)
    # add() where set() would do: nothing else sets these, and it need not look for an earlier one.
    add = headers.add
    add("X-Track-Request-Id", track["request_id"])
    add("X-Track-Operation-Id", track["operation_id"])
    add("X-Track-Request-Ts", track["request_ts"])
    event_app = environ.get(EVENT_APP)
    if event_app is not None:
        add("X-Event-App", event_app)
    add("X-Content-Type-Options", "nosniff")
