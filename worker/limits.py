"""Holds messages of limited tasks to their limits: asks Redis before each run, puts off or parks what may not run yet.

A middleware like any other, and the last one asked. It keeps nothing between two messages: what counts is in Redis, and
what it took is let go of by the commit.
"""

from __future__ import annotations

from typing import Any, cast

import gevent

from taskstream.broker import Broker, limits
from taskstream.errors import Postpone, TaskstreamError
from taskstream.handler import Handler
from taskstream.logs import FieldLogger
from taskstream.message import ADMITTED_HEADER
from taskstream.middleware import Middleware, Run

from .backoff import RECONNECT_MOST_S, Backoff

MOST_US = 2**53
"""More microseconds than that no clock says."""


class ToldToCome(Postpone):
    """The rate does not let the message run now; ``at`` (us since the epoch, text) is its time."""

    def __init__(self, seconds: float, at: str) -> None:
        super().__init__(seconds)
        self.at = at


class NoSlot(Postpone):
    """All slots are taken: the message waits until one is given to it."""

    def __init__(self) -> None:
        super().__init__(0.0)


class Limits(Middleware):
    """The limits of all handlers of a process. What goes wrong with a ``limit_key`` is the run's failure."""

    loud = True

    def __init__(self, broker: Broker, log: FieldLogger) -> None:
        self._broker = broker
        self._log = log

    def of(self, handler: Handler) -> tuple[Middleware, ...]:
        """Itself for a handler with a limit; others have nothing to do with it."""
        return () if handler.limit is None else (self,)

    def before_run(self, run: Run) -> None:
        """Return as soon as the message may run. Raises ToldToCome or NoSlot, and what a ``limit_key`` raises."""
        limit, delivery = run.handler.limit, run.delivery
        assert limit is not None
        name = limit.name(run.handler.name, delivery)
        if limit.most is not None:
            run.ties += (limits.tie(delivery.stream, name, limit.most, delivery.message.id),)
        answer = self._ask(run, name)
        if answer.full:
            raise NoSlot
        if not answer.go:
            raise ToldToCome(answer.wait_us / 1_000_000, answer.at)
        if answer.wait_us:
            gevent.sleep(answer.wait_us / 1_000_000)

    def _ask(self, run: Run, name: str) -> limits.Answer:
        """Ask until there is an answer: the message is held meanwhile, and given back when the worker stops."""
        delivery = run.delivery
        told = (delivery.message.headers or {}).get(ADMITTED_HEADER, "")
        # Anybody can have written it.
        told = told if isinstance(told, str) and told.isdigit() and int(told) < MOST_US else ""
        backoff = Backoff(0.05, RECONNECT_MOST_S)
        failing = False
        while True:
            try:
                return limits.ask(
                    self._broker.call,
                    delivery.stream,
                    name,
                    cast(Any, run.handler.limit),
                    delivery.message.id,
                    (delivery.from_again, delivery.entry_id),
                    told,
                )
            except TaskstreamError as error:
                if not failing:
                    failing = True
                    self._log.warning(
                        "Limit cannot be asked for, trying on",
                        {"limit": name, "stream.name": delivery.stream, "error": error},
                    )
                gevent.sleep(backoff.next())
