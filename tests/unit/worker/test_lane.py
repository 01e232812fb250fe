"""What a lane's place in the shared table says while batches are committed and the next messages start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from taskstream.message import Delivery, Message
from taskstream_worker import table
from taskstream_worker.lane import Lane
from taskstream_worker.membership import Job
from taskstream_worker.table import Table


class Member:
    """A membership as a lane sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.jobs: dict[tuple[bool, str], Job] = {}


class World:
    """One lane and its place in a table."""

    def __init__(self, shared: Table) -> None:
        self.table = shared
        self.lane = Lane(0, shared)

    def start(self, member: Any, message_id: str, entry: str) -> Job:
        """As the executor marks what starts."""
        job = Job(member, Delivery(Message(message_id, "h", b""), "s", "g", entry, 1), None, (False, entry))
        member.jobs[job.at] = self.lane.marked = job
        self.table.start(0, member.number, message_id)
        return job

    def commit(self, *jobs: Job) -> None:
        """As the acker ends a batch that was committed."""
        for job in jobs:
            del job.membership.jobs[job.at]
        self.lane.forget_committed(jobs[0].membership)

    @property
    def blamed(self) -> list[str]:
        """Whom the end of the process would be blamed on now."""
        return [one.message_id for one in self.table.started()]


@pytest.fixture
def world() -> Iterator[World]:
    with table.create(1) as file:
        shared = Table(file.fileno(), 1)
        yield World(shared)
        shared.close()


def test_what_is_committed_is_blamed_no_more(world: World) -> None:
    job = world.start(Member(1), "a", "1-0")
    assert world.blamed == ["a"]
    world.commit(job)
    assert world.blamed == []


def test_what_started_in_its_place_meanwhile_still_is(world: World) -> None:
    # Given two messages that a lane ran, and a third that it runs
    member = Member(1)
    first, second, third = (world.start(member, name, f"{number}-0") for number, name in enumerate("abc"))
    # When the first two are committed, one batch after the other
    for job in (first, second):
        world.commit(job)
        # Then it is the third all the time
        assert world.blamed == ["c"]
    world.commit(third)
    assert world.blamed == []


def test_the_end_of_what_another_life_held_changes_nothing(world: World) -> None:
    # Given a message of one subscription, and the next in that place of another, each from an entry of its own
    first = world.start(Member(1), "a", "1-0")
    other = world.start(Member(2), "b", "2-0")
    world.commit(first)
    assert world.blamed == ["b"]
    world.commit(other)
    assert world.blamed == []
