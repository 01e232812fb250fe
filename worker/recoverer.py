"""Takes over what dead consumers held, on its own clock, busy or idle.

A lease that ran out only permits a takeover. This is the observer that decides it: it must itself have seen
the same lease unrenewed for a full lease, over one unbroken connection, unless a supervisor gave it up.
"""

from __future__ import annotations

from collections.abc import Sequence

import gevent
import redis

from taskstream.broker import Broker
from taskstream.connection import Profile, passing
from taskstream.errors import TaskstreamError
from taskstream.link import Link
from taskstream.logs import FieldLogger

from . import intake
from .clock import boottime
from .consumer import STARTED, Consumer
from .membership import Membership
from .slots import Slots

SWEEP_S = 1.0
AGAIN_S = 0.02


class Observations:
    """How long each lease has been seen at its present score. Pure; times are boottime seconds.

    The time between two looks counts a quarter of a lease at most: in a longer one the server may have stood still,
    and whoever held the lease could not renew it either.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._most_s = lease_s / 4
        self._looked_at = 0.0
        self._seen: dict[str, tuple[float, float]] = {}

    def forget(self) -> None:
        """The connection broke: whatever was observed before proves nothing."""
        self._seen.clear()

    def ripe(self, leases: Sequence[tuple[str, float]], me: str, now: float) -> list[tuple[str, float]]:
        """Which of ``leases`` (consumer, score) may be taken over by ``me`` at ``now``."""
        passed = min(now - self._looked_at, self._most_s)
        seen = {}
        ripe = []
        for consumer, score in leases:
            if consumer == me:
                continue
            old = self._seen.get(consumer)
            watched = old[1] + passed if old is not None and old[0] == score else 0.0
            seen[consumer] = (score, watched)
            # Scores below 2: given up by the supervisor, or a takeover that somebody began.
            if score < 2 or watched >= self._lease_s:
                ripe.append((consumer, score))
        self._looked_at = now
        self._seen = seen
        return ripe


class Recoverer:
    """Sweeps the groups of all subscriptions over one connection of its own."""

    def __init__(
        self, broker: Broker, consumers: Sequence[Consumer], slots: Slots, lease_s: float, log: FieldLogger
    ) -> None:
        self._consumers = consumers
        self._slots = slots
        self._log = log
        self._pause_s = min(SWEEP_S, lease_s / 4)
        self._link = Link(broker.url, Profile(socket_timeout=5.0))
        self._generation = -1
        self._observed = {id(consumer): Observations(lease_s) for consumer in consumers}

    def start(self) -> None:
        """Start the greenlet; it ends with the process."""
        gevent.spawn(self._run)

    def _run(self) -> None:
        while True:
            soon = False
            for consumer in self._consumers:
                membership = consumer.membership
                waits = False
                # What was revoked has to be known here before anything of it can be taken over.
                if membership is not None and not membership.lost and not consumer.revocations.stale:
                    try:
                        waits = self._sweep(consumer, membership)
                    except (redis.RedisError, OSError, TaskstreamError) as error:
                        # Where only one group's keys are broken, what was observed of the others still counts.
                        if passing(error):
                            self._link.close()
                        self._log.debug("Sweep failed", {**consumer.fields(), "error": error})
                    except Exception as error:
                        # One that ended would leave what the dead held to nobody, and look like peace.
                        self._link.close()
                        self._log.error("Takeover failed, going on", consumer.fields(), exc=error)
                    if not consumer.looked:
                        # However that went: a restarted process is not to wait for ever.
                        consumer.looked = True
                        consumer.notice_room()
                consumer.takes_over = waits
                soon |= not consumer.looked
            self._wait(AGAIN_S if soon else self._pause_s)

    def _wait(self, seconds: float) -> None:
        """Wait; less if room comes for what is to be taken over, which readers would fill again at once."""
        waiting = [consumer for consumer in self._consumers if consumer.takes_over]
        self._slots.wanted = bool(waiting) and self._slots.free <= 0
        if not waiting:
            self._slots.notice()
            gevent.sleep(seconds)
            return
        until = boottime() + seconds
        while boottime() < until and not any(consumer.room for consumer in waiting):
            gevent.sleep(AGAIN_S)

    def _sweep(self, consumer: Consumer, membership: Membership) -> bool:
        """Look at one group and take over what may be; return whether some of it waits for room."""
        leases = membership.group.sweep(self._link.call)
        if self._link.generation != self._generation:
            self._generation = self._link.generation
            for observed in self._observed.values():
                observed.forget()
        ripe = self._observed[id(consumer)].ripe(leases, membership.group.consumer, boottime())
        return any(self._take_over(consumer, membership, victim, score) for victim, score in ripe)

    def _take_over(self, consumer: Consumer, membership: Membership, victim: str, score: float) -> bool:
        """Take over what ``victim`` held, piece by piece; return whether the rest waits for room."""
        taken = 0
        try:
            while consumer.state == STARTED and consumer.around.paused is None:
                count = min(consumer.room, 100)
                if not count:
                    # Others may have room. If nobody has, this comes before new messages, or a backlog holds it up.
                    return True
                # The reader must not come across what was claimed before it is known here.
                with membership.receiving:
                    claimed = membership.group.claim(self._link.call, victim, score, count, consumer.suspect_at)
                    if claimed.mine_ran_out or membership.lost:
                        return False
                    taken += len(claimed.entries)
                    # Consumption may have been stopped while the reply was on its way.
                    intake.accept(consumer, membership, claimed.entries, run=consumer.state == STARTED)
                if claimed.finished:
                    return False
                # A suspect closes the executor, and then there is no room.
                gevent.sleep(0)
            return False
        finally:
            if taken:
                said = {**consumer.fields(), "consumer": victim, "count": taken}
                self._log.warning("Took over from a dead worker", said)
