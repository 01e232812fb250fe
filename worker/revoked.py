"""Which messages of one subscription are revoked, as this process knows: complete before the first of them is read.

Redis has the whole truth; a hint over the control channel brings news at once, a renewal tells where one was missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gevent.lock import RLock

from taskstream.broker import revocations

if TYPE_CHECKING:
    from .consumer import Consumer

MOST_ADDED = 10_000
"""Ids heard of since they were last read; then they are read anew, without those that are forgotten."""


class Revoked:
    """The revoked ids of a consumer's group, and whether each is not to go on running either.

    ``ids`` is one dict for ever.
    """

    def __init__(self, consumer: Consumer) -> None:
        self.ids: dict[str, bool] = {}
        self.stale = True
        """There may be some that are not known here."""
        self._consumer = consumer
        self._lock = RLock()
        self._number = -1
        self._told: dict[str, bool] = {}
        """What was heard of since the present or last reading began, which may have missed it."""
        self._added = 0

    def load(self) -> None:
        """Read all of them, if there are others than those known, and end what runs. Stale where that fails.

        Raises BrokerUnavailable.
        """
        subscription, around = self._consumer.subscription, self._consumer.around
        self.stale = True
        with self._lock:
            self._told.clear()
            where = (around.broker.call, subscription.stream, subscription.group)
            number = revocations.revokes(*where)
            if number != self._number or self._added > MOST_ADDED:
                found = revocations.revoked(*where) if number else {}
                self.ids.clear()
                self.ids.update(found)
                self._add(self._told)
                self._number, self._added = number, 0
            self.stale = False
        around.queue.terminate(self._consumer)

    def hear(self, number: int, ids: Sequence[str], terminate: bool) -> None:
        """Somebody revoked ``ids``, the ``number``th time in this group. If others were missed, raises as ``load``."""
        if number <= self._number:
            return
        # Before a reading that is under way has its answers: one of them could be started meanwhile.
        told = dict.fromkeys(ids, terminate)
        self._told.update(told)
        self._add(told)
        with self._lock:
            if number <= self._number:
                return
            if number == self._number + 1 and self._added + len(ids) <= MOST_ADDED:
                self._number = number
                self._added += len(ids)
                self._consumer.around.queue.terminate(self._consumer)
                return
        self.load()

    def _add(self, told: Mapping[str, bool]) -> None:
        for one, terminate in told.items():
            self.ids[one] = terminate or self.ids.get(one, False)
