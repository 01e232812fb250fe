"""A task known by its name only: what ``app.send_task`` sends to, where the code is not at hand."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from taskstream.app import sending
from taskstream.app.call_options import SendOptions
from taskstream.app.result import AsyncResult
from taskstream.app.task import Host
from taskstream.arguments import Arguments
from taskstream.errors import ConfigError, ValidationError
from taskstream.keys import check_name
from taskstream.message import Message, new_id
from taskstream.running import RUNNING, followed


class RemoteTask:
    """Sends calls of ``name``. Its arguments are JSON values; whether they fit, only the worker can tell."""

    def __init__(self, host: Host, name: str, queue: str | None = None) -> None:
        """``queue`` is the app's own unless given. Raises ValidationError for what cannot be a name."""
        try:
            self.name: str = check_name("task", name)
        except ConfigError as error:
            raise ValidationError(f"send_task: {error}") from None
        self.queue: str = host.name if queue is None else queue
        self._host = host

    unique = False
    """Only who has the code knows of that."""

    def call_digest(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """Of no use without ``unique``."""
        raise NotImplementedError

    def message(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        message_id: str | None = None,
        headers: dict[str, Any] | None = None,
    ) -> Message:
        """The message of one call. Raises ValidationError naming each argument that JSON cannot carry."""
        body = _anything(self.name).encode(args, kwargs)
        running = RUNNING.get()
        return Message(
            message_id or new_id(), self.name, body, headers if running is None else followed(running, headers)
        )

    def start(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: SendOptions) -> AsyncResult[Any]:
        """Send one call. Raises ValidationError, BrokerUnavailable or QueueFull."""
        sent = sending.envelope(self, args, kwargs, options)
        return AsyncResult(self._host.send(sent), self._host, sent.stream)

    def __repr__(self) -> str:
        return f"<RemoteTask {self.name}>"


@functools.lru_cache(maxsize=256)
def _anything(name: str) -> Arguments:
    def function(*args: Any, **kwargs: Any) -> None: ...

    return Arguments(function, name)
