"""Errors as ``application/problem+json`` (RFC 9457), for everything that can go wrong while answering.

An answer never holds a traceback or the text of an unexpected error; those go to the log, under the request id
that the client gets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Flask, Response, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from taskstream.errors import BrokerUnavailable, ConfigError, QueueFull, ResultUnavailable, ValidationError
from taskstream.logs import engine_logger

from .lean import Reply
from .tracking import track_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

RETRY_AFTER_S = 2
"""What a client is told to wait where the broker is away or a stream is full."""

# Where werkzeug's own sentence would not help the caller of an API.
_DETAILS = {
    404: "nothing is served at this path",
    405: "this path does not answer this method; the Allow header lists those it does",
}

log = engine_logger("web")


class Problem(Exception):
    """An answer other than success. ``errors`` goes by field; ``detail`` is one sentence for the client."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}
        self.extra = extra or {}

    def reply(self, environ: WSGIEnvironment) -> Reply:
        """The HTTP answer to the request of this WSGI environment."""
        body: dict[str, object] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": track_of(environ)["request_id"],
            **self.extra,
        }
        if self.errors:
            body["errors"] = self.errors
        # ASCII, so that a lone surrogate in a client's own words cannot fail here.
        text = json.dumps(body, default=str, ensure_ascii=True)
        return Reply(text.encode(), self.status, dict(self.headers), "application/problem+json")

    def response(self) -> Response:
        """The same for Flask, to the request it is answering."""
        return self.reply(request.environ).response()


def invalid(error: ValidationError) -> Problem:
    """400 that names the fields."""
    return Problem(400, str(error), errors=error.errors)


def unavailable(error: BrokerUnavailable | QueueFull | ConfigError) -> Problem:
    """503 that says when to try again, and whether the message may have been sent.

    A ConfigError is the broker refusing this server for good, for its password or its rights: the operator's to
    mend, not the client's.
    """
    extra = None
    if isinstance(error, QueueFull):
        detail = str(error)
    elif isinstance(error, ConfigError):
        detail = "the broker refuses this server; the log has the reason"
    elif error.maybe_sent:
        detail, extra = "the broker did not confirm: the message may or may not have been sent", {"maybe_sent": True}
    else:
        detail = "the broker cannot be reached; nothing was sent"
    return Problem(503, detail, headers={"Retry-After": str(RETRY_AFTER_S)}, extra=extra)


FAILED = Problem(500, "the request failed; the log has the reason under this request id")


def fields_of_request() -> dict[str, object]:
    """What a log line about the current request says about it."""
    track = track_of(request.environ)
    return {
        "request.method": request.method,
        "request.path": request.path,
        "track.request_id": track["request_id"],
        "track.operation_id": track["operation_id"],
    }


def _refused(problem: Problem) -> Response:
    level = log.warning if problem.status >= 500 else log.info
    level("Refused", {**fields_of_request(), "response.status": problem.status, "response.detail": problem.detail})
    return problem.response()


def _no_broker(error: BrokerUnavailable | QueueFull | ConfigError) -> Response:
    fields = {**fields_of_request(), "response.status": 503, "error.message": str(error)}
    log.warning("Refused", fields)
    return unavailable(error).response()


def _no_results(error: ResultUnavailable) -> Response:
    return _refused(Problem(503, str(error), headers={"Retry-After": str(RETRY_AFTER_S)}))


def _http(error: HTTPException) -> ResponseReturnValue:
    status = error.code or 500
    if error.response is not None or status < 400:
        return error.get_response(request.environ)  # a whole answer of its own, such as a redirect
    kept = {
        name: value for name, value in error.get_headers() if name.lower() not in ("content-type", "content-length")
    }
    return _refused(Problem(status, _DETAILS.get(status, error.description or ""), headers=kept))


def _unexpected(error: Exception) -> Response:
    log.error("Request failed", {**fields_of_request(), "response.status": 500}, exc=error)
    return FAILED.response()


def register(app: Flask) -> None:
    """Answer every error of ``app`` as problem+json."""
    app.register_error_handler(Problem, _refused)
    for known in (BrokerUnavailable, QueueFull, ConfigError):
        app.register_error_handler(known, _no_broker)
    app.register_error_handler(ResultUnavailable, _no_results)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)
