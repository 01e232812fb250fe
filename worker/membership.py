"""One life of a consumer name in one group, and the jobs it holds. Ends when its lease is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gevent
import msgspec
from gevent.lock import RLock

from taskstream.broker.group import Call, ConsumerGroup
from taskstream.handler import Follower, Handler
from taskstream.message import Delivery
from taskstream.middleware import Run
from taskstream.results.base import Outcome
from taskstream.ties import Tie

from .clock import boottime

if TYPE_CHECKING:
    from .consumer import Consumer
    from .lane import Lane


class Membership:
    """A registered consumer.

    ``deadline`` (boottime, s) is until when the lease is known to hold; the lease thread moves it. ``jobs``
    are the messages held, by where they were read and their entry id. ``number`` counts the memberships of
    the process. ``receiving`` is held while messages that the server already counts as held here become jobs.
    """

    __slots__ = ("choice_version", "consumer", "deadline", "group", "jobs", "lost", "number", "receiving")

    def __init__(self, consumer: Consumer, group: ConsumerGroup, number: int, deadline: float) -> None:
        self.consumer = consumer
        self.group = group
        self.number = number
        self.deadline = deadline
        self.jobs: dict[tuple[bool, str], Job] = {}
        self.lost = False
        self.choice_version = -1
        self.receiving = RLock()

    def lose(self) -> None:
        """The lease is lost: whatever it held is others' now."""
        self.lost = True
        self.consumer.leave_at_once(self)

    def absolve(self, call: Call) -> None:
        """This process comes back from where its lease was lost: what it held has killed nobody."""
        held = [(*at, job.delivery.message.id) for at, job in self.jobs.items() if not job.overran]
        self.jobs.clear()  # now, so that it is said once, whoever else comes to end this life
        if held:
            self.group.absolve(call, held)

    def wait_until_sure(self) -> bool:
        """Wait until the lease is known to hold; False if it is lost."""
        while not self.lost:
            if boottime() < self.deadline:
                return True
            gevent.sleep(0.02)
        return False


class Job(msgspec.Struct, eq=False):
    """One message on its way through this process, from the read to the commit.

    ``at`` is where it was read: whether from `again`, and its entry id.
    ``move`` says how it ends: ``a`` ack, ``r`` retry after ``delay_ms`` (at ``due_ms`` if not 0) as ``payload``, ``g``
    give back as ``payload``, ``w`` wait for a slot as ``payload``, ``d`` dead letter ``payload``. ``overran``: it was
    handed out because its process was ended over it, for which nobody ever counts a death. ``handed``: its end is
    decided and the acker's, nobody changes it any more. ``ties`` are what its end lets go of. ``expires_ms`` (Redis'
    clock) is when it is too late to start it. ``lane`` is where it was started, and stays marked as started until its
    end is committed or the lane's next starts.
    ``ended``: it was revoked, and its run has been told. ``run`` is what hooks of its handler see of it, where it was
    made.

    A struct because it is made for every message: one written in Python costs as much as reading the message does.
    """

    membership: Membership
    delivery: Delivery
    handler: Handler | None
    at: tuple[bool, str] = (False, "")
    move: str = ""
    delay_ms: int = 0
    due_ms: int = 0
    ended: bool = False
    payload: str = ""
    started_ms: int = 0
    overran: bool = False
    handed: bool = False
    lane: Lane | None = None
    run: Run | None = None
    outcome: Outcome | None = None
    successors: tuple[Follower, ...] = ()
    ties: tuple[Tie, ...] = ()
    expires_ms: int | None = None

    def seen(self) -> Run:
        """What hooks see of it; made at the first use."""
        if self.run is None:
            assert self.handler is not None
            self.run = Run(self.delivery, self.handler)
        return self.run
