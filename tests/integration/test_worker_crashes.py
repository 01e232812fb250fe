"""Processes that die or stand still while they hold messages: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Started, alive, eventually
from jobs import Jobs, kill, worker_processes

from taskstream.connection import BLOCK_MS
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message, encode_json, new_id


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app, without a pool."""
    return Jobs(tmp_path, broker_url, start_cli)


def deaths(jobs: Jobs) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = jobs.broker.client.hgetall(f"ts:{{jobs}}:deaths:{QUEUE_GROUP}")  # type: ignore[assignment]
    return found


def test_a_killed_worker_process_is_replaced_at_once(jobs: Jobs) -> None:
    # Given a message that runs in one of two processes, whose lease would last for long
    pool = jobs.pool(lease=60, processes=2, concurrency=1)
    jobs.running(2)
    one = jobs.send("slow", "a")
    (first,) = eventually(lambda: jobs.runs("start", "a"))
    # When that process is killed
    killed = time.monotonic()
    kill(first, signal.SIGKILL)
    # Then the other one runs it without waiting for the lease
    eventually(lambda: len(jobs.runs("start", "a")) == 2, 10)
    assert time.monotonic() - killed < 10
    assert deaths(jobs) == {one.encode(): b"1"}
    jobs.go("a")
    outcome = jobs.outcome(one)
    assert (outcome.state, outcome.delivery, outcome.attempts) == ("SUCCESS", 2, 1)
    assert first not in jobs.runs("end", "a") and len(jobs.runs("end", "a")) == 1
    # And there are two processes again, the death is forgotten
    eventually(lambda: len(worker_processes(pool)) == 2)
    jobs.settled()
    assert deaths(jobs) == {}


def test_what_a_killed_process_held_comes_before_a_backlog(jobs: Jobs) -> None:
    # Given two processes with room for one message each, that are never without a next one
    jobs.pool(lease=60, processes=2, concurrency=1)
    jobs.running(2)
    first = jobs.send("slow", "a")
    (pid,) = eventually(lambda: jobs.runs("start", "a"))
    keys = [f"k{number}" for number in range(20)]
    ids = [jobs.send("slow", key) for key in keys]
    eventually(lambda: jobs.runs("start", "k0"))
    # When the process of one is killed, and the one that replaces it has taken the next
    kill(pid, signal.SIGKILL)
    eventually(lambda: jobs.runs("start", "a")[1:] or jobs.runs("start", "k1"))
    time.sleep(2)
    # Then it is run as soon as a message ends
    jobs.go("k0", "k1")
    eventually(lambda: len(jobs.runs("start", "a")) == 2, 5)
    jobs.go("a", *keys)
    assert [jobs.outcome(one).state for one in (first, *ids)] == ["SUCCESS"] * 21
    assert all(len(jobs.runs("start", key)) == 1 for key in keys)
    jobs.settled()


def test_a_whole_pool_killed_is_taken_over_within_ten_seconds(jobs: Jobs) -> None:
    # Given two pools with the lease they have by default, one of which holds messages that run
    lost = jobs.pool(lease=6, concurrency=3)
    jobs.running(1)
    ids = [jobs.send("slow", key) for key in "abc"]
    eventually(lambda: all(jobs.runs("start", key) for key in "abc"))
    jobs.pool(lease=6, concurrency=3)
    jobs.running(2)
    # When the supervisor and its process are killed
    killed = time.monotonic()
    lost.send(signal.SIGKILL, group=True)
    # Then the other pool runs all three
    eventually(lambda: all(len(jobs.runs("start", key)) == 2 for key in "abc"), 20)
    assert time.monotonic() - killed < 10 + 3, "10 s, and what a busy machine adds"
    jobs.go(*"abc")
    assert [(found.state, found.delivery) for found in map(jobs.outcome, ids)] == [("SUCCESS", 2)] * 3
    assert all(len(jobs.runs("end", key)) == 1 for key in "abc")
    jobs.settled()


def test_a_killed_supervisor_takes_no_work_with_it(jobs: Jobs) -> None:
    # Given a supervisor that is killed while a message runs in its process
    pool = jobs.pool(lease=2)
    one = jobs.send("slow", "a")
    (pid,) = eventually(lambda: jobs.runs("start", "a"))
    pool.send(signal.SIGKILL)
    pool.wait()
    # Then the message finishes where it is, and the process leaves
    jobs.go("a")
    assert jobs.outcome(one).delivery == 1
    eventually(lambda: pool.family() == [])
    assert jobs.runs("start", "a") == jobs.runs("end", "a") == [pid]
    assert jobs.state.consumers == 0 and jobs.broker.client.keys("ts:{jobs}:leases:*") == []


def test_poison_ends_as_a_dead_letter_and_its_neighbours_are_unharmed(jobs: Jobs) -> None:
    # Given messages that run beside one that kills its process each time
    jobs.pool(lease=60, processes=1)
    neighbours = [jobs.send("slow", key) for key in "abcd"]
    eventually(lambda: all(jobs.runs("start", key) for key in "abcd"))
    poison = jobs.send("poison")
    # When it has killed one, it is the last to be started, alone
    (first,) = eventually(lambda: jobs.runs("poison"))
    eventually(lambda: not alive(first))
    jobs.go(*"abcd")
    outcome = jobs.outcome(poison)
    # Then it is not run again
    assert outcome.state == "FAILURE" and outcome.error is not None and outcome.error.type == "WorkerDied"
    assert len(jobs.runs("poison")) == 2
    assert eventually(lambda: list(jobs.letters())) == [poison.encode()]
    # And the others are done, although they shared its first death
    assert [jobs.outcome(one).state for one in neighbours] == ["SUCCESS"] * 4
    assert all(len(jobs.runs("end", key)) == 1 for key in "abcd")
    jobs.settled(dead=1)


def test_a_process_stopped_past_its_lease_changes_nothing_when_it_wakes(jobs: Jobs) -> None:
    # Given a process that stands still while a message runs in it
    asleep = jobs.pool("--name", "asleep")
    one = jobs.send("slow", "a")
    (pid,) = eventually(lambda: jobs.runs("start", "a"))
    kill(pid, signal.SIGSTOP)
    # When another pool has taken the message over and finished it
    other = jobs.pool("--name", "other")
    eventually(lambda: len(jobs.runs("start", "a")) == 2)
    jobs.go("a")
    outcome = jobs.outcome(one)
    jobs.settled()
    assert outcome.delivery == 2 and outcome.worker.startswith("other")
    other.send(signal.SIGTERM)
    assert other.wait() == 0
    # Then the run of the one that wakes up changes nothing
    kill(pid, signal.SIGCONT)
    eventually(lambda: pid in jobs.runs("end", "a"))
    # And it goes on under a new name
    after = jobs.outcome(jobs.send("add", 1, 1))
    assert after.worker.startswith("asleep") and jobs.runs("add", "1", "1") == [pid]
    assert jobs.found(one) == outcome
    jobs.settled()
    eventually(lambda: "Lease lost" in asleep.output)
    eventually(lambda: jobs.state.consumers == 1)


def test_what_retries_while_asleep_is_retried_once(jobs: Jobs) -> None:
    # Given a process that stands still in a run that will fail, and whose message was done by another meanwhile
    jobs.pool("--name", "asleep")
    (jobs.folder / "hold").touch()
    one = jobs.send("late_failure", "a")
    (pid,) = eventually(lambda: jobs.runs("late_failure", "a"))
    kill(pid, signal.SIGSTOP)
    other = jobs.pool("--name", "other")
    eventually(lambda: len(jobs.runs("late_failure", "a")) == 2)
    (jobs.folder / "hold").unlink()
    outcome = jobs.outcome(one)
    assert (outcome.state, outcome.attempts) == ("FAILURE", 2)
    jobs.settled(dead=1)
    other.send(signal.SIGTERM)
    assert other.wait() == 0
    # When it wakes up, then neither a retry nor a second letter comes of its failure
    kill(pid, signal.SIGCONT)
    assert jobs.outcome(jobs.send("add", 1, 1)).state == "SUCCESS"
    jobs.settled(dead=1)
    assert len(jobs.runs("late_failure", "a")) == 3
    assert jobs.found(one) == outcome


def test_a_handler_that_holds_the_interpreter_keeps_its_lease(jobs: Jobs) -> None:
    # Given two pools, and a message that lets no other thread of its process run for three leases
    jobs.pool("--name", "one")
    jobs.pool("--name", "two")
    jobs.running(2)
    outcome = jobs.outcome(jobs.send("hog", 3.5), 30)
    # Then nobody took it over
    assert (outcome.state, outcome.delivery) == ("SUCCESS", 1)
    assert len(jobs.runs("hog")) == 1
    jobs.settled()


def test_an_idle_queue_takes_no_slot_from_a_busy_one(
    tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]
) -> None:
    # Given a pool with room for one message, that reads two queues
    jobs = Jobs(tmp_path, broker_url, start_cli)
    with (tmp_path / "jobs.py").open("a", encoding="utf-8") as module:
        module.write("\n\n@app.task(queue='other')\ndef sub(a: int, b: int) -> int:\n    return a - b\n")
    jobs.pool(concurrency=1)
    jobs.running(1)
    # When one of them gets messages, then the other
    for queue, name in (("jobs", "jobs.add"), ("other", "jobs.sub")):
        ids = [new_id() for _ in range(20)]
        for number, one in enumerate(ids):
            jobs.broker.publish(queue, Message(one, name, encode_json({"args": [number, 0]})))
        started = time.monotonic()
        # Then they do not wait for reads of the idle one to end
        assert [jobs.outcome(one).delivery for one in ids] == [1] * 20
        assert time.monotonic() - started < BLOCK_MS / 1000


def test_a_message_that_ends_and_then_kills_its_process_is_poison(jobs: Jobs) -> None:
    # Given a message whose end can never be committed
    jobs.pool(lease=60, concurrency=2)
    poison = jobs.send("dies_after")
    # Then it is run no more often than it may be, and others are unharmed; a value that was kept before is replaced
    error = eventually(lambda: jobs.outcome(poison).error, 30)
    assert error is not None and error.type == "WorkerDied"
    assert len(jobs.runs("dies_after")) == 2
    assert jobs.outcome(jobs.send("add", 1, 1)).state == "SUCCESS"
    jobs.settled(dead=1)


def test_a_timeout_left_behind_ends_no_lane(jobs: Jobs) -> None:
    # Given timers that go off in lanes that wait for their next message
    jobs.pool(concurrency=2)
    ids = [jobs.send("leaves_a_timeout") for _ in range(4)]
    assert [jobs.outcome(one).state for one in ids] == ["SUCCESS"] * 4
    time.sleep(0.5)
    # Then what comes is run
    assert jobs.outcome(jobs.send("add", 1, 1)).state == "SUCCESS"
    jobs.settled()
