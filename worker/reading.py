"""What one consumer reads next: how many messages, from which of its streams, and whether it waits on the server.

It decides and sends that one command. What becomes of the messages is the intake's part; when to read at all, under
which name and over which connection the consumer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent

from taskstream.broker.group import Call, Entry
from taskstream.connection import BLOCK_MS

from .clock import boottime
from .membership import Membership

if TYPE_CHECKING:
    from .consumer import Consumer

UNCOMMITTED = 2_000
"""Finished messages that may wait for their commit before reading pauses."""

POLL_S = 0.05
"""How often a reader looks that may not wait on the server, because it would do so with the last free slot."""


class Reading:
    """The reads of one consumer; remembers where the last one found something."""

    def __init__(self, consumer: Consumer) -> None:
        self.under_way = False
        self.last_at = 0.0
        """Boottime (s) of the last read that the server answered."""
        self._consumer = consumer
        self._slots = consumer.around.slots
        self._again_hot = False
        self._main_hot = True

    @property
    def room(self) -> int:
        """How many messages of this subscription could start now."""
        consumer = self._consumer
        if consumer.around.queue.closed:
            return 0
        free, limit = self._slots.free, consumer.subscription.concurrency
        return max(0, free if limit is None else min(free, limit - consumer.active))

    def count(self, membership: Membership) -> int:
        """How many messages may be read now under this name; 0 as long as something else comes first."""
        consumer, slots = self._consumer, self._slots
        if membership.lost or boottime() >= membership.deadline or not consumer.looked:
            return 0
        if len(membership.jobs) >= slots.total + UNCOMMITTED or slots.wanted or consumer.takes_over:
            return 0
        most = consumer.subscription.batch_size
        return self.room if most is None else min(self.room, most)

    def read(self, call: Call, membership: Membership, room: int) -> list[Entry]:
        """Read once, ``room`` messages if it can be helped; it may be that more came, or none."""
        slots, alone = self._slots, self._consumer.around.alone
        main, block, count, pause = True, True, room, 0.0
        if self._again_hot:
            # COUNT holds for each of the two streams, so share it out while both may have something.
            if room == 1:
                main = block = False
            else:
                count = room // 2
        if not alone:
            if self._main_hot:
                block = False
            else:
                # Others need the slots while this read waits on the server; with the last one it must not wait.
                count = max(1, count // 4)
                if block and count >= slots.free:
                    block, pause = False, POLL_S
        reserved = count if block and not alone else 0
        slots.reserved += reserved
        self.under_way = True
        try:
            entries = membership.group.read(call, count, BLOCK_MS if block else None, main=main)
        finally:
            self.under_way = False
            slots.reserved -= reserved
        self.last_at = boottime()
        self._main_hot = bool(entries)
        self._again_hot = any(entry.from_again for entry in entries)
        if not entries:
            gevent.sleep(pause)
        return entries
