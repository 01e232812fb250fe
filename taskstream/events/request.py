"""A POST or GET event: from the bytes of a request to the bytes of its response. Knows no web framework."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from taskstream.app.context import EventContext, PostprocessHook, PreprocessHook, path_version
from taskstream.config import EventConfig
from taskstream.dataobjects import dump_json, validator_for
from taskstream.errors import BrokerUnavailable, QueueFull, ValidationError
from taskstream.events.apps import EventApp
from taskstream.events.chain import Chain, Function, RunAsync, resolve
from taskstream.events.module import EventModule, Starter, check_type
from taskstream.events.query import QueryReader
from taskstream.message import Message, new_id


class Publish(Protocol):
    """Puts a message on a stream that may have ``max_length`` entries; raises BrokerUnavailable or QueueFull."""

    def __call__(self, stream: str, message: Message, max_length: int | None = None, /) -> None: ...


JSON = "application/json"

_BODYLESS = (204, 205, 304)

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")


@dataclass(frozen=True, slots=True)
class EventRequest:
    """A request as the web server hands it over.

    ``payload`` is the body (None for a method without one), ``query`` has every value of an argument, ``track``
    the ids ``request_id``, ``operation_id`` and ``request_ts``, ``headers`` go by name in any case.
    """

    payload: bytes | None
    query: Mapping[str, Sequence[str]]
    track: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EventResponse:
    """What to answer. A header has several values where it is sent several times (``Set-Cookie``)."""

    status: int
    headers: dict[str, str | list[str]]
    body: bytes
    content_type: str = JSON


class RequestEvent:
    """One POST or GET event of an app."""

    def __init__(self, app: EventApp, config: EventConfig, module: EventModule, run_async: RunAsync) -> None:
        """Raises ConfigError."""
        self.app = app
        self.name = config.name
        self.label = app.label(config.name)
        self.method = config.type
        self.route = f"/api/{app.name}/{path_version(app.version)}/{config.name}"
        self.write_stream = config.write_stream
        self.max_length = config.max_length
        self.module = module
        self._run_async = run_async
        self._context = EventContext(app.name, app.version, config.name, app.env)
        self._log = self._context.log
        if self.method == "POST":
            check_type(module.where, module.payload_type)
        self._payload = validator_for(module.payload_type) if self.method == "POST" else None
        self._query = QueryReader(module.api.query_args, module.where)
        self._chain = Chain(module.steps, run_async)
        self._starter = Starter(module.init, self._context, run_async)

    def start(self) -> None:
        """Run ``__init_event__`` if no request has yet. ``respond`` does so by itself."""
        self._starter()

    def respond(self, request: EventRequest, publish: Publish) -> EventResponse:
        """Handle one request and log its START and DONE or FAILED.

        Raises ValidationError for what the client sent (or a step refused), BrokerUnavailable and QueueFull from
        ``publish``; anything else is a mistake in the handler. A stop from outside passes through.
        """
        log, talks = self._log, self._log.enabled(logging.INFO)
        track = {f"track.{name}": value for name, value in request.track.items()} if talks else {}
        started = time.perf_counter()
        try:
            arguments = self._query.read(request.query)
            payload = None if self._payload is None else self._payload.load_json(request.payload or b"")
            if talks:
                log.info("START", track)
            self._starter()
            response = self._handle(request, payload, arguments, publish)
        except BaseException as error:
            self._log_failure(error, request, started)
            raise
        if talks:
            elapsed = round((time.perf_counter() - started) * 1000, 3)
            log.info("DONE", {"response.status": response.status, "metrics.duration": elapsed, **track})
        return response

    def _handle(
        self, request: EventRequest, payload: Any, arguments: dict[str, Any], publish: Publish
    ) -> EventResponse:
        context = self._context.follow(request.track)
        module = self.module
        value = payload
        if module.preprocess is not None:
            asked = PreprocessHook(request.headers, arguments, request.payload)
            value = self._call(module.preprocess, (value, context, asked), arguments)
            if asked.status is not None:
                return self._response(value, asked.status, PostprocessHook())
        value = self._chain.run(value, context, arguments)
        if self.write_stream is not None and value is not None:
            publish(self.write_stream, message_of(self.label, value, request.track), self.max_length)
        hook = PostprocessHook()
        if module.postprocess is not None:
            value = self._call(module.postprocess, (value, context, hook), arguments)
        return self._response(value, hook.status, hook)

    def _call(self, function: Function, values: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        return resolve(function.call(*values[: function.takes], **function.bind(arguments)), self._run_async)

    def _response(self, value: Any, status: int, hook: PostprocessHook) -> EventResponse:
        """The answer's bytes. Raises ValueError or TypeError for what the handler cannot have meant."""
        if type(status) is not int or not 200 <= status <= 599:
            raise ValueError(f"{self.label}: response.status is {status!r}, not an HTTP status from 200 to 599")
        headers: dict[str, str | list[str]] = {}
        for name, text in hook.headers.items():
            headers[name] = _checked(self.label, name, text)
        if hook.cookies:
            headers["Set-Cookie"] = [_checked(self.label, "Set-Cookie", cookie) for cookie in hook.cookies]
        content_type = _checked(self.label, "Content-Type", hook.content_type)
        if status in _BODYLESS:
            body = b""
        elif isinstance(value, bytes):
            body = value
        elif isinstance(value, str) and content_type.partition(";")[0] != JSON:
            body = value.encode()
        else:
            # A bare value is no JSON document that a client can extend, so it gets the event's name.
            named = {self.name: value} if value is None or isinstance(value, str | int | float) else value
            body = own_json(self.label, named)
        return EventResponse(status, headers, body, content_type)

    def _log_failure(self, error: BaseException, request: EventRequest, started: float) -> None:
        fields: dict[str, object] = {"metrics.duration": round((time.perf_counter() - started) * 1000, 3)}
        fields |= {f"track.{name}": value for name, value in request.track.items()}
        if isinstance(error, ValidationError):
            fields |= {"response.status": 400, "error.message": str(error)}
            self._log.warning("FAILED", fields)
        elif isinstance(error, BrokerUnavailable | QueueFull):
            fields |= {"response.status": 503, "error.message": str(error)}
            self._log.warning("FAILED", fields)
        else:
            self._log.error("FAILED", {"response.status": 500, **fields}, exc=error)


def _checked(label: str, name: str, value: Any) -> str:
    if not _HEADER_NAME.fullmatch(name) or not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"{label}: {name!r}: {value!r} is no header that can be sent")
    return value


def own_json(label: str, value: Any) -> bytes:
    """JSON of what a handler returned. Raises TypeError: that it cannot be sent is the handler's mistake."""
    try:
        return dump_json(value)
    except ValidationError as error:
        raise TypeError(f"{label} returned what cannot be sent: {error}") from None


def message_of(label: str, value: Any, headers: Mapping[str, Any] | None, message_id: str | None = None) -> Message:
    """The message that carries ``value``: named by its type, with the request's ids."""
    return Message(
        message_id or new_id(), type(value).__name__, own_json(label, value), dict(headers) if headers else None
    )
