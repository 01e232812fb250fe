"""Processes that stand still for longer than their lease and go on: what they say then is not heard any more."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import Started, eventually
from jobs import Jobs, kill
from proxy import FaultyProxy

from taskstream import keys
from taskstream.handler import QUEUE_GROUP

DEATHS = keys.deaths("jobs", QUEUE_GROUP)


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app, without a pool."""
    return Jobs(tmp_path, broker_url, start_cli)


@pytest.fixture
def proxy(broker_url: str) -> Iterator[FaultyProxy]:
    """Between one pool and the server."""
    proxy = FaultyProxy(broker_url)
    yield proxy
    proxy.close()


def test_a_process_stopped_inside_a_commit_of_many(jobs: Jobs, proxy: FaultyProxy) -> None:
    # Given a process that stands still when outcomes are on disk, their commit is on the way and more wait behind it
    direct, jobs.url = jobs.url, proxy.url
    asleep = jobs.pool("--name", "asleep", concurrency=30)
    pid = jobs.running(1)[0]["pid"]
    jobs.outcome(jobs.send("add", 0, 0))  # so that it is connected, and the commit is all that it sends
    jobs.settled()
    hold, slow, failing = jobs.folder / "hold", [f"k{n}" for n in range(10)], [f"f{n}" for n in range(4)]
    hold.touch()
    ids = [jobs.send("slow", key) for key in slow] + [jobs.send("late_failure", key) for key in failing]

    def run(times: int) -> bool:
        return all(len(jobs.runs("start", key)) == times for key in slow) and all(
            len(jobs.runs("late_failure", key)) == times for key in failing
        )

    eventually(lambda: run(1))
    proxy.drop(requests=True, replies=False)
    hold.unlink()
    jobs.go(*slow)
    eventually(lambda: all(jobs.runs("end", key) for key in slow) and any(map(jobs.found, ids)))
    kill(pid, signal.SIGSTOP)
    hold.touch()
    for key in slow:
        (jobs.folder / f"go-{key}").unlink()
    # When another pool has taken it all over and runs it
    jobs.url = direct
    jobs.pool("--name", "other", concurrency=30)
    eventually(lambda: run(2), 20)
    # Then the commit that arrives now does nothing, nor does what follows when the process wakes
    proxy.heal()
    time.sleep(0.3)  # nothing would be seen of it: that is the point
    kill(pid, signal.SIGCONT)
    eventually(lambda: "Lease lost" in asleep.output)
    state = jobs.state
    assert (state.held, state.delayed, state.dead) == (14, 0, 0)
    # And what comes of it is the other's
    hold.unlink()
    jobs.go(*slow)
    jobs.settled(dead=4)
    outcomes = [jobs.outcome(one) for one in ids]
    assert [(found.state, found.attempts) for found in outcomes] == [("SUCCESS", 1)] * 10 + [("FAILURE", 2)] * 4
    assert all(found.worker.startswith("other") for found in outcomes[:10])
    assert all(len(jobs.runs("late_failure", key)) == 3 for key in failing)


def test_a_pool_stopped_past_its_lease_goes_on_afresh(jobs: Jobs) -> None:
    # Given a supervisor and its process that stand still together while messages run
    pool = jobs.pool("--name", "asleep")
    ids = [jobs.send("slow", key) for key in "abc"]
    eventually(lambda: all(jobs.runs("start", key) for key in "abc"))
    pool.send(signal.SIGSTOP, group=True)
    jobs.pool("--name", "other")
    eventually(lambda: all(len(jobs.runs("start", key)) == 2 for key in "abc"))
    # When they go on while the other pool runs them
    pool.send(signal.SIGCONT, group=True)
    eventually(lambda: "Lease lost" in pool.output)
    jobs.go(*"abc")
    # Then each has one outcome, and it is the other's
    outcomes = [jobs.outcome(one) for one in ids]
    assert [(found.delivery, found.worker.split(".")[0]) for found in outcomes] == [(2, "other")] * 3
    jobs.settled()
    assert jobs.broker.client.exists(DEATHS) == 0
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
    assert [jobs.found(one) for one in ids] == outcomes


def test_a_process_that_is_stopped_again_and_again_kills_nothing(jobs: Jobs) -> None:
    # Given a message that runs for long, and two processes
    one = jobs.send("slow", "a")
    jobs.pool("--name", "one")
    (first,) = eventually(lambda: jobs.runs("start", "a"))
    jobs.pool("--name", "two")
    jobs.running(2)
    running = first
    for times in (1, 2, 3):
        # When the one that runs it stands still until the other has taken it over
        kill(running, signal.SIGSTOP)
        starts = eventually(lambda times=times: found if len(found := jobs.runs("start", "a")) > times else [])
        stopped, running = running, starts[-1]
        # Then nobody has died once it goes on, however often that was
        assert jobs.broker.client.hgetall(DEATHS) == {one.encode(): b"1"}
        kill(stopped, signal.SIGCONT)
        eventually(lambda: not jobs.broker.client.exists(DEATHS))
    # And the message is no poison
    jobs.go("a")
    outcome = jobs.outcome(one)
    assert (outcome.state, outcome.delivery) == ("SUCCESS", 4)
    jobs.settled()


def test_a_stopped_supervisor_stops_no_worker(jobs: Jobs) -> None:
    # Given two pools, one of whose supervisors stands still for longer than a lease while a message runs below it
    pool = jobs.pool()
    one = jobs.send("slow", "a")
    eventually(lambda: jobs.runs("start", "a"))
    jobs.pool()
    jobs.running(2)
    pool.send(signal.SIGSTOP)
    time.sleep(2.5)
    # Then its process kept its lease by itself
    jobs.go("a")
    assert jobs.outcome(one).delivery == 1
    jobs.settled()
    pool.send(signal.SIGCONT)
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
