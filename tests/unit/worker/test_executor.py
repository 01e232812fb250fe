"""What the executor starts and what it does not: suspects in turn with everything else, nothing after a stop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from helpers import eventually

from taskstream.handler import Handler, Settings
from taskstream.message import Delivery, Message
from taskstream_worker import executor as module
from taskstream_worker import table
from taskstream_worker.clock import boottime
from taskstream_worker.executor import Executor
from taskstream_worker.membership import Job


class Acker:
    """Commits at once."""

    idle = True

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def put(self, job: Job) -> None:
        job.handed = True
        self.ended.append((job.delivery.message.id, job.move))


class Consumer:
    """A consumer as the executor sees it."""

    def __init__(self) -> None:
        self.acker = Acker()
        self.stopping = False
        self.revoked: dict[str, bool] = {}
        self.freed = 0
        self.given_back: list[str] = []
        self.put_off_s: dict[str, float] = {}
        self.revoked: dict[str, int] = {}
        self.stats = self

    def count(self, move: str, elapsed_ms: float) -> None:
        """What stats do."""

    def notice_room(self) -> None:
        """Nobody waits."""

    def release_slot(self) -> None:
        self.freed += 1

    def give_back(self, jobs: list[Job]) -> None:
        self.given_back += [job.delivery.message.id for job in jobs]

    def put_off(self, job: Job, seconds: float) -> None:
        self.put_off_s[job.delivery.message.id] = seconds


class Member:
    """A membership whose lease holds until ``deadline``."""

    number = 1
    lost = False

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.deadline = boottime() + 1e6

    def wait_until_sure(self) -> bool:
        while boottime() >= self.deadline and not self.lost:
            gevent.sleep(0.001)
        return not self.lost


class World:
    """An executor of two lanes at work; ``ran`` are the ids of messages in the order they ran."""

    def __init__(self) -> None:
        self.consumer = Consumer()
        self.member = Member(self.consumer)
        self.ran: list[str] = []
        self.shared = table.create(2)
        self.executor = Executor(2, "w", table.Table(self.shared.fileno(), 2), False, None, lambda: None, lambda _: ())
        self.handler = Handler("h", self._run, "a", "-", 10, Settings(max_deliveries=2))
        self.executor.start()

    def _run(self, delivery: Delivery) -> None:
        gevent.sleep(0.5 if delivery.deaths else 0.0)
        self.ran.append(delivery.message.id)

    def put(self, message_id: str, deaths: int = 0) -> None:
        delivery = Delivery(Message(message_id, "h", b"null"), "s", "g", "1-1", 1, False, deaths)
        member: Any = self.member
        self.executor.put(Job(member, delivery, self.handler))

    def until(self, condition: Any) -> None:
        def look() -> Any:
            gevent.sleep(0.001)
            return condition()

        eventually(look)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.shared.close()


def test_after_a_suspect_the_others_have_the_process_for_as_long(world: World) -> None:
    # Given a suspect that ran alone
    world.put("suspect", deaths=1)
    world.until(lambda: world.ran == ["suspect"] and not world.executor.closed)
    # When another one comes at once, and something that is none
    world.put("next suspect", deaths=1)
    world.put("innocent")
    world.until(lambda: "innocent" in world.ran)
    # Then the one is put off by what the first has cost, and the other runs
    assert world.ran == ["suspect", "innocent"]
    assert 0 < world.consumer.put_off_s["next suspect"] < module.OTHERS_MOST_S + module.SPREAD_S
    # And its turn comes
    world.executor._others_until = 0.0
    world.put("next suspect", deaths=1)
    world.until(lambda: world.ran == ["suspect", "innocent", "next suspect"])


@pytest.mark.parametrize("sure_until", [0.0, 1e12])
def test_what_was_lost_does_not_start(world: World, sure_until: float) -> None:
    # Given two messages whose lease was lost while they waited, whatever was known of it before
    world.member.deadline, world.member.lost = sure_until, True
    world.put("one")
    world.put("suspect", deaths=1)
    # Then neither runs, nor is ended here, and their slots are free
    world.until(lambda: world.consumer.freed == 2)
    assert world.ran == world.consumer.acker.ended == list(table.Table(world.shared.fileno(), 2).started()) == []


def test_what_waited_for_its_lease_does_not_start_in_a_process_that_stops(world: World) -> None:
    # Given a lease that nobody knows to hold, and two messages that wait for that
    world.member.deadline = 0.0
    world.put("one")
    world.until(lambda: world.executor._queue.empty())
    # When the process is told to stop, and then hears that the lease holds
    world.consumer.stopping = True
    world.member.deadline = boottime() + 1e6
    # Then it is given back
    world.until(lambda: world.consumer.given_back == ["one"])
    assert world.ran == [] and world.executor.running == 0
