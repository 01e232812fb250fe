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

MAIN_TURN = 4
"""Of so many messages that a reader with a single free slot takes one is from the stream, however many came back: a
million that became due at once would keep all that was sent since waiting."""

RANKED_S = 60.0
"""How long a reader goes by priority after it last saw one; a renewal of the lease or a hint brings it back to that."""


class Reading:
    """The reads of one consumer; remembers where the last one found something."""

    def __init__(self, consumer: Consumer) -> None:
        self.under_way = False
        self.last_at = 0.0
        """Boottime (s) of the last read that the server answered."""
        self.waits = 0
        """Number of the read that waits on the server, 0 while none does."""
        self.took_all = False
        """Whether the last read could have brought more than it found."""
        self._consumer = consumer
        self._slots = consumer.around.slots
        self._again_hot = False
        self._main_hot = True
        self._reads = 0
        self._ranked_until = 0.0
        self._woken = False
        self._turn = 0

    def wake(self) -> None:
        """Something waits by its priority, where no read that waits on the server sees it."""
        self._ranked_until = boottime() + RANKED_S
        self._woken = True

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
        self.under_way = True
        try:
            if self._ranked_until:
                entries = self._read_ranked(call, membership, room)
                if entries or self._woken:
                    return entries
            return self._read_streams(call, membership, room)
        finally:
            self.under_way = False

    def _read_ranked(self, call: Call, membership: Membership, room: int) -> list[Entry]:
        """Read by priority, which no read does that waits: so one that finds nothing is followed by such a read."""
        self._woken = False
        entries, self._turn, used = membership.group.feed(call, room, self._turn)
        self.last_at = boottime()
        if used:
            self._ranked_until = self.last_at + RANKED_S
        elif self.last_at >= self._ranked_until:
            self._ranked_until = 0.0
        self._again_hot = False
        self._main_hot = bool(entries)
        self.took_all = len(entries) < room
        return entries

    def _read_streams(self, call: Call, membership: Membership, room: int) -> list[Entry]:
        slots, alone = self._slots, self._consumer.around.alone
        again, main, block, count, pause = True, True, True, room, 0.0
        self._reads += 1
        if self._again_hot:
            # COUNT holds for each of the two streams, so share it out while both may have something.
            if room == 1:
                main = self._reads % MAIN_TURN == 0
                again, block = not main, False
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
        self.waits = self._reads if block else 0
        try:
            entries = membership.group.read(call, count, BLOCK_MS if block else None, again=again, main=main)
        finally:
            self.waits = 0
            slots.reserved -= reserved
        self.last_at = boottime()
        self._main_hot = bool(entries)
        if again:
            # Those of `again` come first.
            self._again_hot = bool(entries) and entries[0].from_again
        self.took_all = len(entries) < count
        if not entries:
            gevent.sleep(pause)
        return entries
