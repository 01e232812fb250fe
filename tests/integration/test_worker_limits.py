"""Limits that a supervisor enforces on its processes: how long a message may run, how much a process may do or take."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from helpers import Started, alive, eventually
from jobs import Jobs, worker_processes

from taskstream import keys
from taskstream.handler import QUEUE_GROUP

LIMITED = """

@app.task(timeout=0.2, hard_timeout=1)
def runaway(key: str) -> None:
    note("start", key)
    while True:
        try:
            wait_for("never")
        except BaseException:
            note("swallowed", key)


@app.task(hard_timeout=0.5, autoretry_for=(TimeoutError,), max_retries=2, retry_backoff=0.01)
def second_time_lucky(key: str) -> int:
    note("start", key)
    if not (HERE / f"tried-{key}").exists():
        (HERE / f"tried-{key}").touch()
        wait_for("never")
    return 7


@app.task(hard_timeout=30)
def limited(key: str) -> str:
    note("start", key)
    wait_for(f"go-{key}")
    return key


BALLAST = []


@app.task
def grow(mb: int) -> None:
    note("grow", mb)
    BALLAST.append(b"x" * mb * 1_000_000)
"""


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app with more tasks, without a pool."""
    jobs = Jobs(tmp_path, broker_url, start_cli)
    with (tmp_path / "jobs.py").open("a", encoding="utf-8") as module:
        module.write(LIMITED)
    return jobs


def blamed(jobs: Jobs) -> bool:
    return bool(jobs.broker.client.exists(keys.deaths("jobs", QUEUE_GROUP)))


# -- hard_timeout ------------------------------------------------------------------------------------------


def test_a_process_is_killed_for_a_message_past_its_hard_timeout(jobs: Jobs) -> None:
    # Given messages that run beside one that no interrupt stops
    pool = jobs.pool(lease=60)
    neighbours = [jobs.send("slow", "a"), jobs.send("limited", "b")]
    eventually(lambda: jobs.runs("start", "a") and jobs.runs("start", "b"))
    (pid,) = worker_processes(pool)
    one = jobs.send("runaway", "r")
    # Then it fails by its limit, without another run
    outcome = jobs.outcome(one)
    assert outcome.state == "FAILURE" and outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == (
        "TimeLimitExceeded",
        "ran longer than its hard_timeout of 1 s",
    )
    assert len(jobs.runs("start", "r")) == 1 and jobs.runs("swallowed", "r")
    assert not alive(pid)
    # And its neighbours run again at once, with nothing counted against them
    eventually(lambda: len(jobs.runs("start", "a")) == len(jobs.runs("start", "b")) == 2)
    eventually(lambda: not blamed(jobs))
    jobs.go("a", "b")
    assert [(found.state, found.delivery) for found in map(jobs.outcome, neighbours)] == [("SUCCESS", 2)] * 2
    jobs.settled(dead=1)
    # And that was no crash
    assert "hard_timeout" in pool.output and "died" not in pool.output


def test_a_hard_timeout_is_retried_like_any_failure(jobs: Jobs) -> None:
    jobs.pool(lease=60)
    outcome = jobs.outcome(jobs.send("second_time_lucky", "k"))
    assert (outcome.state, outcome.attempts, bytes(outcome.value)) == ("SUCCESS", 2, b"7")
    assert len(set(jobs.runs("start", "k"))) == 2
    jobs.settled()
    assert not blamed(jobs)  # nor is the reason remembered


def test_a_hard_timeout_ends_what_a_stopping_pool_waits_for(jobs: Jobs) -> None:
    pool = jobs.pool("--grace", "60")
    one = jobs.send("runaway", "r")
    eventually(lambda: jobs.runs("start", "r"))
    pool.send(signal.SIGTERM)
    assert pool.wait(20) == 1
    # The next pool says what became of it
    jobs.pool()
    assert jobs.outcome(one).state == "FAILURE"
    assert len(jobs.runs("start", "r")) == 1


# -- worn processes ----------------------------------------------------------------------------------------


def test_a_process_that_has_run_enough_is_replaced_without_a_pause(jobs: Jobs) -> None:
    # Given a pool of one process that is to run five messages, one of which takes long
    pool = jobs.pool("--max-tasks-per-process", "5", lease=60)
    jobs.running(1)
    (first,) = worker_processes(pool)
    long = jobs.send("slow", "a")
    eventually(lambda: jobs.runs("start", "a"))
    ids = [jobs.send("add", n, 0) for n in range(5)]
    # Then another takes its place while it finishes that one, for as long as that takes
    eventually(lambda: "is replaced" in pool.output and len(worker_processes(pool)) == 2)
    eventually(lambda: [one["state"] for one in jobs.running(2)].count("stopping") == 1)
    second = jobs.outcome(jobs.send("add", 9, 0))
    assert jobs.runs("add", "9", "0") != [first] and second.delivery == 1
    jobs.go("a")
    assert [(found.state, found.delivery) for found in map(jobs.outcome, [long, *ids])] == [("SUCCESS", 1)] * 6
    assert jobs.runs("end", "a") == [first]
    eventually(lambda: not alive(first))
    # And there was always one that reads
    said = pool.output
    assert said.index("Worker starts", said.index("Worker starts") + 1) < said.index("Worker stops")
    # And that is no error
    eventually(lambda: "has ended" in pool.output)
    assert "ERROR" not in pool.output and "died" not in pool.output
    # And its name is free for the next
    names = {one["name"].rpartition(".")[2] for one in jobs.running(1)}
    assert names == {"2"}
    for n in range(4):
        jobs.send("add", n, 1)
    eventually(lambda: [one["name"].rpartition(".")[2] for one in jobs.running(1)] == ["1"])
    jobs.settled()
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0


def test_processes_that_are_worn_together_are_replaced_one_by_one(jobs: Jobs) -> None:
    # Given a pool whose processes are worn after each message
    pool = jobs.pool("--max-tasks-per-process", "1", processes=2, concurrency=2, lease=60)
    jobs.running(2)
    most, ids = 0, [jobs.send("add", n, 2) for n in range(6)]
    # Then everything runs once, and there are never fewer than two, nor more than two and their predecessors
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not all(jobs.found(one) for one in ids):
        found = len(worker_processes(pool))
        assert found >= 1
        most = max(most, found)
    assert 3 <= most <= 4
    assert [(found.state, found.delivery) for found in map(jobs.outcome, ids)] == [("SUCCESS", 1)] * 6
    assert all(len(jobs.runs("add", str(n), "2")) == 1 for n in range(6))
    jobs.settled()
    # And a stop in the middle of it is a clean one
    jobs.send("add", 99, 0)
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
    assert pool.family() == []


def test_a_process_that_has_grown_is_replaced(jobs: Jobs) -> None:
    pool = jobs.pool("--max-memory-per-process", "250", lease=60)
    jobs.running(1)
    (first,) = worker_processes(pool)
    assert psutil.Process(first).memory_info().rss < 250_000_000
    jobs.outcome(jobs.send("grow", 250))
    eventually(lambda: not alive(first))
    assert "of memory" in pool.output and "ERROR" not in pool.output
    assert jobs.outcome(jobs.send("add", 1, 1)).state == "SUCCESS"
    jobs.settled()


def test_a_limit_below_what_a_process_takes_from_the_start_replaces_nothing(jobs: Jobs) -> None:
    pool = jobs.pool("--max-memory-per-process", "5")
    (first,) = eventually(lambda: jobs.running(1) and worker_processes(pool))
    eventually(lambda: "before it has run anything" in pool.output)
    jobs.outcome(jobs.send("add", 1, 1))
    time.sleep(1.5)
    assert worker_processes(pool) == [first]


def test_a_draining_process_is_stopped_with_its_pool(jobs: Jobs) -> None:
    # Given a process that has been replaced and finishes a long message
    pool = jobs.pool("--max-tasks-per-process", "1", "--grace", "0.3")
    one = jobs.send("slow", "a")
    eventually(lambda: jobs.runs("start", "a"))
    jobs.outcome(jobs.send("add", 1, 1))
    eventually(lambda: any(worker["state"] == "stopping" for worker in jobs.running(2)))
    # Then the grace time of a stop holds for it too
    pool.send(signal.SIGTERM)
    assert pool.wait(15) == 1
    assert jobs.runs("interrupted", "a")
    jobs.settled(waiting=1)
    assert jobs.state.consumers == 0 and jobs.found(one) is None
