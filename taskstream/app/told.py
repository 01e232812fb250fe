"""Calls the hooks of an app's middleware around what it sends. Sends nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from taskstream.broker import Envelope
from taskstream.errors import Refuse, ValidationError
from taskstream.message import OWN_HEADERS, Message, check_headers
from taskstream.middleware import Middleware, overriding, say, tell


class EnqueueHooks:
    """The hooks of one app's sends."""

    def __init__(self, middleware: Sequence[Middleware]) -> None:
        self._before = overriding(middleware, "before_enqueue")
        self._after = overriding(middleware, "after_enqueue")

    @property
    def any(self) -> bool:
        """Whether there is anything to call."""
        return bool(self._before or self._after)

    def before(self, queue: str, message: Message) -> Message:
        """What to send instead of ``message``. Raises Refuse or ValidationError where a hook does."""
        for one in self._before:
            try:
                added = one.before_enqueue(queue, message)
                if added:
                    message = _with_headers(message, added)
            except (Refuse, ValidationError):
                raise
            except Exception as error:
                say(one, "before_enqueue", error)
        return message

    def after(self, queue: str, message: Message) -> None:
        """Redis has accepted it."""
        tell(self._after, "after_enqueue", queue, message)

    def around(self, send: Callable[[Envelope], str]) -> Callable[[Envelope], str]:
        """``send(envelope)`` with the hooks around it."""

        def told(envelope: Envelope) -> str:
            envelope = self.before_all([envelope])[0]
            sent = send(envelope)
            self.after(envelope.stream, envelope.message)
            return sent

        return told

    def before_all(self, envelopes: Sequence[Envelope]) -> list[Envelope]:
        """``before`` of each; one that is refused refuses all."""
        return [one._replace(message=self.before(one.stream, one.message)) for one in envelopes]

    def after_all(self, envelopes: Sequence[Envelope], ids: Sequence[str | None]) -> None:
        """``after`` of each that has an id."""
        for one, sent in zip(envelopes, ids, strict=False):
            if sent is not None:
                self.after(one.stream, one.message)


def _with_headers(message: Message, added: Mapping[str, Any]) -> Message:
    found = check_headers(added)
    if reserved := [name for name in found if name.startswith(OWN_HEADERS)]:
        raise ValueError(f"headers: {reserved[0]!r:.200}: names beginning with {OWN_HEADERS} are reserved")
    return msgspec.structs.replace(message, headers={**(message.headers or {}), **found})
