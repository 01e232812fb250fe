"""A broker that goes away, forgets, or answers into the void; a disk that takes no results."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import OwnServer, Started, eventually
from jobs import Jobs
from proxy import FaultyProxy

from taskstream.broker.script import Script
from taskstream.errors import BrokerUnavailable
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app, without a pool."""
    return Jobs(tmp_path, broker_url, start_cli)


def consumes(jobs: Jobs, number: int) -> None:
    """A call that is sent now runs, and once."""
    assert jobs.outcome(jobs.send("add", number, 0)).delivery == 1
    assert len(jobs.runs("add", str(number), "0")) == 1


def test_a_fresh_worker_is_starting_and_then_runs(
    tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]
) -> None:
    jobs = Jobs(tmp_path, broker_url, start_cli)
    # Given a folder of results that can never be one
    (tmp_path / "file").touch()
    jobs.results = f"file://{tmp_path}/file/results"
    pool = jobs.pool()
    seen: list[str] = []

    def runs() -> bool:
        seen.extend(worker["state"] for worker in jobs.broker.workers())
        return "running" in seen

    eventually(runs)
    assert set(seen) <= {"starting", "running"}
    # Then that is told once, before there is a result
    eventually(lambda: "Results cannot be written" in pool.output)
    assert pool.output.count("Results cannot be written") == 1


def test_a_broker_without_memory_is_worked_empty(
    tmp_path: Path, own_valkey: OwnServer, start_cli: Callable[..., Started]
) -> None:
    jobs = Jobs(tmp_path, own_valkey.url, start_cli)
    pool = jobs.pool(concurrency=2)
    jobs.running(1)
    held = [jobs.send("slow", key) for key in "ab"]
    eventually(lambda: jobs.runs("start", "b"))
    held += [jobs.send("add", number, 0) for number in range(20)]
    retried = jobs.send("flaky", "c")
    # When the broker takes nothing more, for longer than a lease
    jobs.broker.client.config_set("maxmemory", 1)
    with pytest.raises(BrokerUnavailable):
        jobs.send("add", 0, 0)
    time.sleep(2.5)
    jobs.go("a", "b")
    # Then what is there is worked off, by those who held it
    assert [(one.state, one.delivery) for one in map(jobs.outcome, held)] == [("SUCCESS", 1)] * 22
    assert jobs.outcome(retried).attempts == 2
    jobs.settled()
    # And a pool can stop and another start
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
    assert jobs.state.consumers == 0
    jobs.pool()
    eventually(lambda: jobs.state.consumers == 1)
    jobs.broker.client.config_set("maxmemory", 0)
    consumes(jobs, 99)


FORGETTING: dict[str, list[tuple[Any, ...]]] = {
    "FLUSHALL": [("FLUSHALL",)],
    "DEL of the stream": [("DEL", "jobs")],
    "XGROUP DESTROY": [("XGROUP", "DESTROY", "jobs", QUEUE_GROUP)],
    "XGROUP DESTROY of the own stream": [("XGROUP", "DESTROY", f"ts:{{jobs}}:again:{QUEUE_GROUP}", QUEUE_GROUP)],
    "DEL of the leases": [("DEL", f"ts:{{jobs}}:leases:{QUEUE_GROUP}")],
    "SCRIPT FLUSH": [("SCRIPT", "FLUSH")],
    "CLIENT KILL of all": [("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "KILL", "TYPE", "pubsub")],
}


def test_a_broker_that_forgets(jobs: Jobs) -> None:
    jobs.pool()
    consumes(jobs, 0)
    for number, (word, commands) in enumerate(FORGETTING.items(), 1):
        jobs.settled()
        for command in commands:
            try:
                jobs.broker.call(*command)
            except BrokerUnavailable:
                assert word.startswith("CLIENT KILL")
        consumes(jobs, number)
    jobs.settled()
    assert len(jobs.running(1)) == 1
    eventually(lambda: jobs.state.consumers == 1)


def test_messages_of_a_group_that_was_destroyed_under_them_run_again(jobs: Jobs) -> None:
    pool = jobs.pool()
    one = jobs.send("slow", "a")
    eventually(lambda: jobs.runs("start", "a"))
    jobs.broker.call("XGROUP", "DESTROY", "jobs", QUEUE_GROUP)
    # The group is made anew at the start of the stream, where the message still is
    eventually(lambda: len(jobs.runs("start", "a")) == 2)
    jobs.go("a")
    assert jobs.outcome(one).state == "SUCCESS"
    jobs.settled()
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0


@pytest.fixture
def proxy(broker_url: str) -> Iterator[FaultyProxy]:
    """Between pool and server."""
    proxy = FaultyProxy(broker_url)
    yield proxy
    proxy.close()


def test_a_message_whose_delivery_was_lost_runs_all_the_same(jobs: Jobs, proxy: FaultyProxy) -> None:
    direct, jobs.url = jobs.url, proxy.url
    pool = jobs.pool(lease=60)
    jobs.running()
    jobs.outcome(jobs.send("add", 0, 0))
    proxy.lose_reply_with(b"lost-one")
    jobs.broker.publish("jobs", Message("lost-one", "jobs.add", b'{"args":[1,1]}'))
    outcome = jobs.outcome("lost-one")
    assert proxy.lost == 1 and outcome.state == "SUCCESS"
    assert len(jobs.runs("add", "1", "1")) == 1
    assert "delivery got lost" in pool.output
    jobs.settled()
    jobs.url = direct


def test_a_commit_whose_reply_was_lost_is_not_done_twice(jobs: Jobs, proxy: FaultyProxy) -> None:
    jobs.url = proxy.url
    jobs.pool(lease=60)
    jobs.running()
    consumes(jobs, 0)
    commit = Script("commit").sha.encode()
    # An ack
    proxy.lose_reply_to(commit)
    consumes(jobs, 1)
    jobs.settled()
    # A retry
    proxy.lose_reply_to(commit)
    outcome = jobs.outcome(jobs.send("flaky", "k"))
    assert (outcome.attempts, outcome.delivery) == (2, 2)
    jobs.settled()
    assert len(jobs.runs("flaky", "k")) == 2
    # A dead letter
    proxy.lose_reply_to(commit)
    one = jobs.send("fails", "exit")
    jobs.settled(dead=1)
    assert list(jobs.letters()) == [one.encode()]
    assert proxy.lost == 3
    consumes(jobs, 2)
    jobs.settled(dead=1)


def test_a_process_that_cannot_sign_off_is_signed_off_by_its_supervisor(jobs: Jobs, proxy: FaultyProxy) -> None:
    jobs.url = proxy.url
    pool = jobs.pool(lease=60)
    consumes(jobs, 0)
    jobs.settled()
    proxy.lose_command(Script("release").sha.encode())
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
    assert proxy.lost == 1
    assert jobs.state.consumers == 0
    assert jobs.broker.client.exists(f"ts:{{jobs}}:leases:{QUEUE_GROUP}") == 0


@pytest.mark.parametrize("results", ["json://results", "file://results"])
def test_without_a_place_for_results_nothing_is_acknowledged(jobs: Jobs, results: str) -> None:
    jobs.results = results
    # Given a folder that cannot be written (a file has its name, which stops root too)
    jobs.pool()
    consumes(jobs, 0)
    jobs.settled()
    shutil.rmtree(jobs.folder / "results")
    (jobs.folder / "results").touch()
    # When messages run that end together (the first end alone would keep the others from being read)
    ids = [jobs.send("slow", name) for name in "abc"]
    eventually(lambda: all(jobs.runs("start", name) for name in "abc"))
    jobs.go(*"abc")
    # Then none is acknowledged, and the worker says why it takes no more
    (worker,) = eventually(
        lambda: [one for one in jobs.broker.workers() if one["state"] == "paused" and one["reason"]], 15
    )
    assert "results cannot be written" in worker["reason"]
    assert jobs.state.held >= 3
    more = jobs.send("add", 9, 1)
    assert jobs.runs("add", "9", "1") == []
    # And when it can be written again it goes on by itself
    (jobs.folder / "results").unlink()
    assert [jobs.outcome(one).delivery for one in [*ids, more]] == [1] * 4
    assert all(len(jobs.runs("start", name)) == 1 for name in "abc") and len(jobs.runs("add", "9", "1")) == 1
    jobs.settled()
    eventually(lambda: jobs.running()[0]["state"] == "running")
