"""What a step or a hook of an event is told: the event's context, and the request or response being shaped.

Plain values; nothing here runs events or speaks HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from taskstream.logs import FieldLogger


class StreamInfo(msgspec.Struct, frozen=True):
    """Where the message being handled came from. ``attempt`` counts from 1."""

    name: str
    consumer_group: str
    message_id: str
    attempt: int


class EventContext:
    """Which event of which app runs, and for which request.

    ``env`` is the app's ``env`` from its configuration. ``track_ids`` has ``request_id``, ``operation_id`` and
    ``request_ts`` where a request started all this. ``stream`` is set while a STREAM event handles a message.
    """

    __slots__ = ("app_name", "app_version", "env", "event_name", "log", "stream", "track_ids")

    def __init__(
        self,
        app_name: str,
        app_version: str,
        event_name: str,
        env: Mapping[str, Any] | None = None,
        track_ids: Mapping[str, Any] | None = None,
        stream: StreamInfo | None = None,
        log: FieldLogger | None = None,
    ) -> None:
        """``log`` is shared by all contexts of one event; made where it is not given (tests of a step)."""
        self.app_name = app_name
        self.app_version = app_version
        self.event_name = event_name
        self.env = {} if env is None else env
        self.track_ids = {} if track_ids is None else track_ids
        self.stream = stream
        self.log = log or FieldLogger(app_name, app_version, event_name)

    @property
    def app_key(self) -> str:
        """``my_streaming_app.1x0``: the app's package and version as they stand in paths and headers."""
        return f"{package_of(self.app_name)}.{path_version(self.app_version)}"

    def follow(self, track_ids: Mapping[str, Any], stream: StreamInfo | None = None) -> EventContext:
        """The same event's context for one request or one message."""
        return EventContext(self.app_name, self.app_version, self.event_name, self.env, track_ids, stream, self.log)


def package_of(app_name: str) -> str:
    """The Python package of an app, and the module of an event: ``my-streaming-app`` → ``my_streaming_app``."""
    return app_name.replace("-", "_").replace(".", "_").replace(":", "_")


def path_version(version: str) -> str:
    """A version as it stands in paths: ``1.0`` → ``1x0``."""
    return version.replace(".", "x")


class PreprocessHook:
    """The request as ``__preprocess__(payload, context, request)`` sees it.

    ``headers`` goes by name in any case; ``query_args`` has the checked values; ``payload_raw`` is the body as it
    came. Setting ``status`` ends the handling: what the hook returns is the answer.
    """

    __slots__ = ("headers", "payload_raw", "query_args", "status")

    def __init__(self, headers: Mapping[str, str], query_args: Mapping[str, Any], payload_raw: bytes | None) -> None:
        self.headers = headers
        self.query_args = query_args
        self.payload_raw = payload_raw
        self.status: int | None = None

    def set_status(self, status: int) -> None:
        """The same as assigning ``status``."""
        self.status = status


class PostprocessHook:
    """The response as ``__postprocess__(value, context, response)`` shapes it.

    ``content_type`` other than JSON sends a returned str or bytes as it is.
    """

    __slots__ = ("content_type", "cookies", "headers", "status")

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.cookies: list[str] = []
        self.content_type = "application/json"

    def set_status(self, status: int) -> None:
        """The same as assigning ``status``."""
        self.status = status

    def set_header(self, name: str, value: str) -> None:
        """Set one header of the response."""
        self.headers[name] = value

    def set_cookie(self, name: str, value: str, attributes: Sequence[str] = ("HttpOnly", "SameSite=Strict")) -> None:
        """Add a cookie (RFC 6265); ``attributes`` as they are written, such as ``Path=/`` or ``Max-Age=60``."""
        self.cookies.append("; ".join((f"{name}={value}", *attributes)))
