"""What an app's messages say of themselves while they are not done: noted by whoever knows, read by handles.

Nothing here decides anything, and no task fails because it could not be noted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from taskstream.broker import Broker, Envelope, states
from taskstream.broker.states import State
from taskstream.errors import BrokerUnavailable, ConfigError
from taskstream.logs import engine_logger
from taskstream.message import Delivery

QUIET_S = 5.0
"""After the broker gave no answer, nothing is noted for so long: each try may hold up a task."""

_log = engine_logger("app")


class Unfinished:
    """The states of one app's messages. Thread-safe."""

    def __init__(self, broker: Callable[[], Broker]) -> None:
        self._broker = broker
        self._quiet_until = float("-inf")

    def note(self, delivery: Delivery, state: str, worker: str, info: Any = None) -> None:
        """A run has begun, or got on. Raises ValidationError for ``info`` that JSON cannot carry."""
        said = State(state, states.now_ms(), info, worker, delivery.number)
        self._try(lambda broker: states.note(broker, delivery.message.id, said))

    def note_scheduled(self, sent: Iterable[tuple[str | None, Envelope]]) -> None:
        """Messages that were sent wait for their time, those of them that have one. By id and envelope."""
        now = states.now_ms()
        due = [
            (message_id, now + envelope.delay_ms if envelope.delay_ms is not None else envelope.due_ms or now)
            for message_id, envelope in sent
            if message_id == envelope.message.id and (envelope.delay_ms is not None or envelope.due_ms is not None)
        ]
        if due:
            self._try(lambda broker: states.note_scheduled(broker, due))

    def read(self, message_id: str) -> State | None:
        """What is known of a message; None for nothing, or while the broker does not answer."""
        try:
            return states.read(self._broker(), message_id)
        except (BrokerUnavailable, ConfigError) as error:
            _log.debug("State cannot be read", {"message.id": message_id, "error": error})
            return None

    def forget(self, message_id: str) -> None:
        """Drop what is known of a message. Raises BrokerUnavailable."""
        states.forget(self._broker(), [message_id])

    def _try(self, note: Callable[[Broker], None]) -> None:
        if time.monotonic() < self._quiet_until:
            return
        try:
            note(self._broker())
        except (BrokerUnavailable, ConfigError) as error:
            self._quiet_until = time.monotonic() + QUIET_S
            _log.debug("State cannot be noted", {"error": error})
