"""What the dead left comes first. One death short of poison it runs alone, and nothing else suffers for it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Started, eventually
from jobs import Jobs

from taskstream import keys
from taskstream.broker.group import ConsumerGroup
from taskstream.handler import QUEUE_GROUP
from taskstream.link import Link


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app, without a pool."""
    return Jobs(tmp_path, broker_url, start_cli)


def left_by_the_dead(jobs: Jobs, deaths: dict[str, int]) -> tuple[list[str], Callable[[], None]]:
    """Messages by key, held by a consumer under which so many processes died; the second value gives it up."""
    call = Link(jobs.url).call
    corpse = ConsumerGroup("jobs", QUEUE_GROUP, "corpse", 60_000)
    assert corpse.register(call)
    ids = [jobs.send("slow", key) for key in deaths]
    assert len(corpse.read(call, len(ids), None)) == len(ids)
    for message_id, count in zip(ids, deaths.values(), strict=True):
        if count:
            call("HSET", keys.deaths("jobs", QUEUE_GROUP), message_id, count)
    return ids, lambda: corpse.release(call)


def held_by(jobs: Jobs, name: str) -> int:
    consumers = jobs.broker.client.xinfo_consumers("jobs", QUEUE_GROUP)
    return sum(one["pending"] for one in consumers if one["name"].decode().startswith(name))


def test_what_the_dead_left_comes_before_anything_new(jobs: Jobs) -> None:
    # Given a message given up by a dead process, and new ones
    (one,), give_up = left_by_the_dead(jobs, {"left": 0})
    give_up()
    for number in range(3):
        jobs.send("slow", f"new{number}")
    # When a process starts that has room for one
    jobs.pool(concurrency=1)
    # Then that is the first it runs
    eventually(lambda: jobs.runs("start", "left") or jobs.runs("start", "new0"))
    assert jobs.runs("start", "new0") == []
    jobs.go("left", "new0", "new1", "new2")
    assert jobs.outcome(one).state == "SUCCESS"
    jobs.settled()


def test_a_suspect_that_waits_is_given_back_by_a_stop(jobs: Jobs) -> None:
    # Given a message that runs, and a suspect that waits until it has ended
    ids, give_up = left_by_the_dead(jobs, {"s1": 2, "i": 0, "s2": 2})
    pool = jobs.pool("--name", "one", lease=60, concurrency=5)
    ids.append(jobs.send("slow", "a"))
    eventually(lambda: jobs.runs("start", "a"))
    give_up()
    eventually(lambda: held_by(jobs, "one") == 2)
    # Then nothing else is taken: neither from the dead nor what is new
    ids.append(jobs.send("slow", "new"))
    eventually(lambda: jobs.state.waiting == 1)
    assert (held_by(jobs, "one"), held_by(jobs, "corpse")) == (2, 2)
    # And a stop gives it back at once, while the other still runs
    pool.send(signal.SIGTERM)
    eventually(lambda: (jobs.state.waiting, held_by(jobs, "one")) == (2, 1))
    jobs.go("a")
    assert pool.wait() == 0
    assert [jobs.runs("start", key) for key in ("s1", "i", "s2", "new")] == [[]] * 4
    # And the next pool runs them all
    jobs.go("s1", "i", "s2", "new")
    jobs.pool()
    assert [jobs.outcome(one).state for one in ids] == ["SUCCESS"] * 5
    assert all(len(jobs.runs("start", key)) == 1 for key in ("s1", "i", "s2", "new", "a"))
    jobs.settled()
    assert jobs.broker.client.exists(keys.deaths("jobs", QUEUE_GROUP)) == 0


def test_a_pool_killed_with_a_suspect_is_blamed_on_no_other(jobs: Jobs) -> None:
    # Given three suspects, one of which runs when its process is killed with the supervisor
    ids, give_up = left_by_the_dead(jobs, {"s1": 2, "s2": 2, "s3": 2})
    give_up()
    pool = jobs.pool(concurrency=5)
    eventually(lambda: jobs.runs("start", "s1"))
    pool.send(signal.SIGKILL, group=True)
    pool.wait()
    # Then that one has had its last run, and the others get theirs
    jobs.pool(concurrency=5)
    jobs.go("s1", "s2", "s3")
    outcomes = [jobs.outcome(one) for one in ids]
    assert [outcome.state for outcome in outcomes] == ["FAILURE", "SUCCESS", "SUCCESS"]
    assert outcomes[0].error is not None and outcomes[0].error.type == "WorkerDied"
    assert [len(jobs.runs("start", key)) for key in ("s1", "s2", "s3")] == [1, 1, 1]
    jobs.settled(dead=1)
