"""Housekeeping of one worker process: retention of results and dead letters, the register of labels.

Nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import gevent

from taskstream.broker import Broker
from taskstream.errors import TaskstreamError
from taskstream.logs import FieldLogger
from taskstream.results.base import ResultStore

from .consumer import Consumer
from .outcomes import now_ms

ANNOUNCE_S = 10.0
"""How soon labels are known again after Redis came back empty."""

CLEAN_S = 60.0
SWEEP_COUNT = 10_000
FORGET_LABEL_S = 30 * 24 * 3600.0
FORGET_COUNT = 1_000


class Janitor:
    """Announces labels; deletes dead letters and outcomes past their retention, a bounded piece at a time."""

    def __init__(
        self, broker: Broker, store: ResultStore | None, consumers: Sequence[Consumer], log: FieldLogger
    ) -> None:
        self._broker = broker
        self._store = store
        self._consumers = consumers
        self._log = log

    def start(self) -> None:
        """Start both greenlets."""
        gevent.spawn(self._keep_house)
        if self._store is not None:
            gevent.spawn(self._sweep, self._store)

    def _keep_house(self) -> None:
        labels = {
            consumer.subscription.label: (consumer.subscription.stream, consumer.subscription.group)
            for consumer in self._consumers
        }
        while True:
            try:
                self._broker.announce_subscriptions(labels, FORGET_LABEL_S)
                self._forget_letters()
                gevent.sleep(ANNOUNCE_S)
            except TaskstreamError as error:
                self._log.debug("Housekeeping in Redis failed, trying on", {"error": error})
                gevent.sleep(1.0)

    def _forget_letters(self) -> None:
        for consumer in self._consumers:
            membership = consumer.membership
            if membership is None:
                continue
            retention = consumer.subscription.dead_retention
            while membership.group.forget(self._broker.call, retention, FORGET_COUNT) == FORGET_COUNT:
                gevent.sleep(0.05)

    def _sweep(self, store: ResultStore) -> None:
        pool = gevent.get_hub().threadpool
        while True:
            try:
                swept = pool.apply(store.sweep, (now_ms(), SWEEP_COUNT))
            except (OSError, TaskstreamError) as error:
                self._log.warning("Old results cannot be deleted", {"error": error})
                swept = 0
            gevent.sleep(CLEAN_S if swept < SWEEP_COUNT else 0.1)
