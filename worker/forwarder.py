"""Makes delayed messages readable when due, trims streams, looks after what is parked or ordered, on its own clock."""

from __future__ import annotations

from collections.abc import Sequence

import gevent
import redis
from gevent.event import Event

from taskstream.broker import Broker, limits, turns
from taskstream.broker.group import ConsumerGroup
from taskstream.errors import ConfigError, TaskstreamError
from taskstream.handler import QUEUE_GROUP
from taskstream.logs import FieldLogger

from .clock import boottime
from .consumer import Consumer

PROMOTE_S = 1.0
"""How long a round waits at most; publish.lua tells of what is due sooner (LOOK_MS)."""

PROMOTE_COUNT = 100
"""A call with 100 due holds the server for a fifth of a millisecond, one with 1,000 for over two."""

TRIM_S = 5.0
TRIM_COUNT = 10_000


class Forwarder:
    """Promotes and trims for all subscriptions of the process."""

    def __init__(self, broker: Broker, consumers: Sequence[Consumer], log: FieldLogger) -> None:
        self._broker = broker
        self._consumers = consumers
        self._log = log
        self._broken: set[Consumer] = set()
        self._soon = Event()
        self._due = 0.0
        self._trim_at = 0.0

    def start(self) -> None:
        """Start the greenlet; it ends with the process."""
        gevent.spawn(self._run)

    def expect(self, delay_ms: int) -> None:
        """Something of this process becomes due in ``delay_ms``."""
        due = boottime() + delay_ms / 1000
        if due < self._due:
            self._due = due
            self._soon.set()

    def _run(self) -> None:
        while True:
            self._due = boottime() + PROMOTE_S
            trim = boottime() >= self._trim_at
            if trim:
                self._trim_at = boottime() + TRIM_S
            for consumer in self._consumers:
                try:
                    self._serve(consumer, trim)
                except (TaskstreamError, redis.RedisError) as error:
                    said = {**consumer.fields(), "error": error}
                    if isinstance(error, ConfigError) and consumer not in self._broken:
                        # No outage, which the reader tells of: delayed messages wait until somebody mends this.
                        self._broken.add(consumer)
                        self._log.error("Delayed messages cannot be promoted, trying on", said)
                    else:
                        self._log.debug("Promotion failed", said)
                else:
                    self._broken.discard(consumer)
            while (pause := self._due - boottime()) > 0:
                if self._soon.wait(pause):
                    self._soon.clear()

    def _serve(self, consumer: Consumer, trim: bool) -> None:
        membership = consumer.membership
        if membership is None or membership.lost:
            return
        moved, wait_ms = membership.group.promote(self._broker.call, PROMOTE_COUNT)
        if wait_ms is not None:
            self._due = min(self._due, boottime() + (wait_ms / 1000 if moved < PROMOTE_COUNT else 0.0))
        if trim:
            self._look_after_parked(membership.group)
            self._look_after_orders(membership.group)
        if trim and membership.group.trim(self._broker.call, TRIM_COUNT) >= TRIM_COUNT:
            self._trim_at = 0.0

    def _look_after_parked(self, group: ConsumerGroup) -> None:
        """Whoever ends a message that has a slot lets the next one go. This is for ends that nobody committed."""
        if group.group != QUEUE_GROUP:
            return
        for name in limits.parked_for(self._broker.call, group.stream):
            stale, gone = limits.unpark(self._broker.call, group.stream, name)
            if stale or gone:
                said = {"stream.name": group.stream, "limit": name, "stale": stale, "gone": gone}
                self._log.debug("Slots were free that nobody had let go of", said)

    def _look_after_orders(self, group: ConsumerGroup) -> None:
        """Whoever ends a message lets the next one of its key come. This is for those that were deleted by hand."""
        if group.group != QUEUE_GROUP or not turns.waiting(self._broker.call, group.stream):
            return
        stuck = turns.unstick(self._broker.call, group.stream)
        if stuck:
            said = {"stream.name": group.stream, "count": stuck}
            self._log.warning("Messages waited for the end of others that are gone, going on with them", said)
