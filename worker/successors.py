"""Publishes what follows finished messages, before they are acknowledged: next stages, steps of workflows, chords.

Everything is known by an id of its own, so whatever is interrupted here is repeated by who takes the message over. It
never acknowledges anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import gevent
from gevent.event import Event

from taskstream.broker import Broker
from taskstream.broker.workflows import Chords, Joined, envelope_of
from taskstream.continuation import gathered, gathered_failure
from taskstream.errors import InvalidMessage, QueueFull, TaskstreamError
from taskstream.handler import Follower, Joining, Opening, Successor
from taskstream.logs import FieldLogger

from .backoff import RECONNECT_MOST_S, Backoff
from .membership import Membership

BATCH = 1_000
T = TypeVar("T")
On = TypeVar("On")


class Successors:
    """What one acker publishes for the messages it ends."""

    def __init__(self, broker: Broker, log: FieldLogger) -> None:
        self._broker = broker
        self._chords = Chords(broker)
        self._log = log
        self._hurry = Event()
        self._full: str | None = None

    def hurry(self) -> None:
        """The process stops: what waits for room in a full stream goes over its limit rather than be run again."""
        self._hurry.set()

    def publish(self, membership: Membership, followers: Sequence[Follower]) -> bool:
        """Do what ``followers`` say; wait as long as it takes. False if the lease is lost meanwhile."""
        openings = [one for one in followers if isinstance(one, Opening)]
        joinings = [one for one in followers if isinstance(one, Joining)]
        # No member may be there before its chord is.
        for start in range(0, len(openings), BATCH):
            if self._insist(membership, self._chords.open, openings[start : start + BATCH]) is None:
                return False
        if not self._send(membership, [one for one in followers if isinstance(one, Successor)]):
            return False
        return all(self._join(membership, joinings[at : at + BATCH]) for at in range(0, len(joinings), BATCH))

    def _join(self, membership: Membership, joinings: Sequence[Joining]) -> bool:
        answer = self._insist(membership, self._chords.join, joinings)
        if answer is None:
            return False
        joined, gone = answer[0]
        for one in gone:
            self._log.debug("No such chord, or through already", {"chord": one.id, "stream.name": one.queue})
        followers = [follower for one in joined for follower in self._followers(one)]
        if followers and not self.publish(membership, followers):
            return False
        return not joined or self._insist(membership, self._chords.close, joined) is not None

    def _followers(self, joined: Joined) -> Sequence[Follower]:
        try:
            if joined.values is None:
                return gathered_failure(joined.joining, joined.then, joined.headers)
            return gathered(joined.joining, joined.then, joined.headers, joined.values)
        except InvalidMessage as error:
            # Nobody can make anything of it, and its members are done.
            self._log.error("Chord cannot go on", {"chord": joined.joining.id, "error": error})
            return ()

    def _insist(self, membership: Membership, act: Callable[[On], T], on: On) -> list[T] | None:
        """``[act(on)]`` as soon as there is no error; None if the lease is lost. For what may be repeated."""
        backoff = Backoff(0.05, RECONNECT_MOST_S)
        failing = False
        while membership.wait_until_sure():
            try:
                return [act(on)]
            except TaskstreamError as error:
                if not failing:
                    failing = True
                    self._log.warning("Workflow cannot go on, trying on", {"error": error})
                gevent.sleep(backoff.next())
        return None

    def _send(self, membership: Membership, successors: Sequence[Successor]) -> bool:
        items = [envelope_of(one) for one in successors]
        backoff = Backoff(0.05, RECONNECT_MOST_S)
        if not items:
            return True
        failing = waited = False
        while items:
            if not membership.wait_until_sure():
                return False
            batch = items[:BATCH]
            if self._hurry.is_set():
                batch = [envelope._replace(max_length=None) for envelope in batch]
            try:
                self._broker.publish_many(batch, finishing=True)
                del items[:BATCH]
            except QueueFull as error:
                # Back pressure: nothing of these is acknowledged, so this stage stops reading and its own stream fills.
                if error.sent:
                    del items[: len(error.sent)]
                    backoff.reset()
                self._say_full(error)
                waited = True
                self._hurry.wait(backoff.next())
            except TaskstreamError as error:
                if not failing:
                    failing = True
                    self._log.warning("Next stage cannot be published, trying on", {"error": error})
                gevent.sleep(backoff.next())
        if not waited:
            self._say_full(None)
        return True

    def _say_full(self, error: QueueFull | None) -> None:
        """One line when the next stage is full, and one when a whole batch found room again."""
        if error is not None and self._full is None:
            about = {"stream.name": error.stream, "stream.length": error.length, "stream.max_length": error.limit}
            self._log.warning("Next stage is full, waiting for room", about)
            self._full = error.stream
        elif error is None and self._full is not None:
            self._log.info("Next stage has room again", {"stream.name": self._full})
            self._full = None
