"""Says in the lines of an application's own loggers which message ran where they were made. Writes no line itself."""

from __future__ import annotations

from collections.abc import Sequence

from taskstream.handler import Handler, Subscription
from taskstream.logs import Running, Source
from taskstream.running import RUNNING

from .known import about_run, event_of


class RunLines:
    """Finds what runs, for ``logs.tell_of_runs``."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = {(one.stream, one.group): one for one in subscriptions}
        self._sources: dict[int, Source] = {}  # by identity: hashing a handler costs more than the rest

    def __call__(self) -> Running | None:
        """Handler and message of the run that calls; None outside of any."""
        delivery = RUNNING.get()
        if delivery is None:
            return None
        subscription = self._subscriptions.get((delivery.stream, delivery.group))
        handler = subscription.handler_for(delivery.message.name) if subscription is not None else None
        return None if handler is None else (self._source_of(handler), about_run(delivery))

    def _source_of(self, handler: Handler) -> Source:
        found = self._sources.get(id(handler))
        if found is None:
            found = self._sources[id(handler)] = Source(handler.app, handler.version, event_of(handler))
        return found
