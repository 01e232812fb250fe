"""A disk that takes no results: nothing is acknowledged, nothing more is taken, and all goes on by itself."""

from __future__ import annotations

import errno
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import FaultyDisk, SmallDisk
from helpers import OwnServer, Started, eventually, taskstream_command
from jobs import MODULE, Jobs

from taskstream.broker import Broker
from taskstream.embedded import EmbeddedBroker, running_broker_url
from taskstream.errors import BrokerUnavailable
from taskstream.message import Message, new_id


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app, without a pool."""
    return Jobs(tmp_path, broker_url, start_cli)


def consumes(jobs: Jobs, number: int) -> None:
    """A call that is sent now runs, and once."""
    assert jobs.outcome(jobs.send("add", number, 0)).delivery == 1
    assert len(jobs.runs("add", str(number), "0")) == 1


def paused(jobs: Jobs) -> str:
    """Why the one worker takes nothing, as soon as it says so."""
    (worker,) = eventually(lambda: [one for one in jobs.broker.workers() if one["state"] == "paused"], 15)
    return str(worker["reason"])


Fault = tuple[str, Callable[[], None], Callable[[], object], str]


@pytest.fixture(params=["file", "json", "redis"])
def fault(request: pytest.FixtureRequest) -> Iterator[Fault]:
    """(result store, its end, its return, what the reason says)."""
    if request.param == "redis":
        server: OwnServer = request.getfixturevalue("own_valkey")
        yield server.url, server.stop, server.start, server.url
        return
    disk: SmallDisk = request.getfixturevalue("small_disk")
    yield f"{request.param}://{disk.folder}/results", disk.fill, disk.free, f"{disk.folder}/results"


def test_without_room_for_outcomes_nothing_ends_and_nothing_more_starts(jobs: Jobs, fault: Fault) -> None:
    jobs.results, fail, mend, place = fault
    # Given running messages: two that will succeed, one to be retried, one that has no try left
    pool = jobs.pool()
    consumes(jobs, 0)
    (jobs.folder / "hold").touch()
    good = [jobs.send("slow", key) for key in "ab"]
    retried = jobs.send("late_failure", "c")
    failed = jobs.send("late_failure", "d", attempt=2)
    eventually(lambda: all(jobs.runs("start", key) for key in "ab"))
    eventually(lambda: all(jobs.runs("late_failure", key) for key in "cd"))
    # When they end on a full disk
    fail()
    jobs.go("a", "b")
    (jobs.folder / "hold").unlink()
    # Then their moves wait, and the worker says why, where, and what to do
    reason = paused(jobs)
    assert "results cannot be written" in reason and place in reason
    if not jobs.results.startswith("redis"):
        assert "the disk is full: free some space" in reason
    more = jobs.send("add", 1, 1)
    eventually(lambda: all(jobs.runs("end", key) for key in "ab"))
    state = jobs.state
    assert (state.waiting, state.held, state.delayed, state.dead) == (1, 4, 0, 0)
    # And when there is room again all goes on by itself
    mend()
    assert [(one.state, one.delivery) for one in map(jobs.outcome, [*good, more])] == [("SUCCESS", 1)] * 3
    assert [(one.state, one.attempts) for one in map(jobs.outcome, [retried, failed])] == [("FAILURE", 2)] * 2
    jobs.settled(dead=2)
    assert [len(jobs.runs(*words)) for words in (("start", "a"), ("start", "b"), ("add", "1", "1"))] == [1, 1, 1]
    assert [len(jobs.runs("late_failure", key)) for key in "cd"] == [2, 1]
    eventually(lambda: jobs.running()[0]["state"] == "running")
    # It was said once
    assert (pool.output.count("Consumption pauses"), pool.output.count("Consumption goes on")) == (1, 1)


def test_a_stop_on_a_full_disk_ends_in_time_and_gives_up_what_has_no_outcome(jobs: Jobs, small_disk: SmallDisk) -> None:
    jobs.results = f"file://{small_disk.folder}/results"
    pool = jobs.pool("--grace", "60", lease=60)
    consumes(jobs, 0)
    one = jobs.send("slow", "a")
    eventually(lambda: jobs.runs("start", "a"))
    small_disk.fill()
    jobs.go("a")
    paused(jobs)
    # When it is told to stop while the outcome of what ran has no place
    pool.send(signal.SIGTERM)
    eventually(lambda: "Worker stops" in pool.output)
    time.sleep(0.5)
    assert pool.process.poll() is None
    # Then it waits for the disk for as long as it may, or until it is told again
    pool.send(signal.SIGTERM)
    assert pool.wait() == 1
    assert "Leaving messages whose end could not be committed" in pool.output
    assert jobs.found(one) is None
    # Then the message is run again, at once and without being blamed for anything
    small_disk.free()
    jobs.pool(lease=60)
    assert jobs.outcome(one).delivery == 2
    assert len(jobs.runs("end", "a")) == 2
    jobs.settled()
    assert jobs.broker.client.keys("ts:*deaths*") == []


def test_what_a_dead_worker_held_is_not_run_where_no_outcome_can_be_kept(jobs: Jobs, small_disk: SmallDisk) -> None:
    jobs.results = f"file://{small_disk.folder}/results"
    pools = [jobs.pool(concurrency=1) for _ in range(2)]
    jobs.running(2)
    ids = [jobs.send("slow", key) for key in "ab"]
    eventually(lambda: jobs.runs("start", "a") and jobs.runs("start", "b"))
    small_disk.fill()
    jobs.go("a", "b")
    eventually(lambda: [one["state"] for one in jobs.broker.workers()] == ["paused"] * 2, 15)
    # When one of two paused workers is gone for longer than its lease
    pools[0].remove()
    time.sleep(3)
    # Then the other one does not start over what it held, before there is room
    assert [len(jobs.runs("start", key)) for key in "ab"] == [1, 1]
    small_disk.free()
    assert sorted(jobs.outcome(one).delivery for one in ids) == [1, 2]
    jobs.settled()


def test_a_log_on_a_full_disk_costs_lines_and_nothing_else(
    jobs: Jobs, small_disk: SmallDisk, start_process: Callable[..., Started]
) -> None:
    small_disk.fill()
    command = taskstream_command("worker", "-A", "jobs:app", "--broker", jobs.url, "--processes", "1", "-l", "DEBUG")
    line = " ".join(f"'{word}'" for word in command)
    pool = start_process(
        ["/bin/sh", "-c", f'exec {line} >"$DISK/log" 2>&1'],
        cwd=jobs.folder,
        env={"DISK": str(small_disk.folder), "TMPDIR": str(small_disk.folder), "TASKSTREAM_RESULTS": jobs.results},
    )
    consumes(jobs, 0)
    assert jobs.outcome(jobs.send("flaky", "k")).attempts == 2
    jobs.send("fails", "base")
    jobs.settled(dead=1)
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
    assert (small_disk.folder / "log").stat().st_size == 0


@pytest.mark.parametrize("policy", ["commit", "checkpoint"])
def test_a_message_ends_before_its_outcome_is_synced_only_by_choice(
    jobs: Jobs, faulty_disk: FaultyDisk, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = MODULE.replace('results="json://results"', f'results="file://results", result_fsync="{policy}"')
    assert code != MODULE
    (jobs.folder / "jobs.py").write_text(code, encoding="utf-8")
    jobs.results = f"file://{faulty_disk.folder}"
    for name, value in faulty_disk.env.items():
        monkeypatch.setenv(name, value)
    jobs.pool()
    consumes(jobs, 0)
    jobs.settled()
    before = faulty_disk.fsyncs
    # When the disk takes writes but cannot make them durable
    faulty_disk.set(fsync_errno=errno.EIO)
    one = jobs.send("add", 1, 1)
    if policy == "checkpoint":
        assert jobs.outcome(one).state == "SUCCESS"
        jobs.settled()
        assert faulty_disk.fsyncs == before
        return
    assert "check the disk" in paused(jobs)
    assert jobs.state.held == 1
    faulty_disk.set(fsync_errno=0)
    jobs.settled()
    assert len(jobs.runs("add", "1", "1")) == 1


def test_a_folder_that_becomes_read_only_and_one_that_is_replaced(jobs: Jobs, small_disk: SmallDisk) -> None:
    jobs.results = f"json://{small_disk.folder}/results"
    jobs.pool()
    consumes(jobs, 0)
    jobs.settled()
    # Given a file system that was remounted read-only, as ext4 does after an error
    eventually(lambda: small_disk.remount("ro") or True)
    one = jobs.send("add", 1, 1)
    assert "Read-only file system" in paused(jobs)
    assert jobs.state.held == 1
    small_disk.remount("rw")
    assert jobs.outcome(one).delivery == 1
    # And one that somebody moves away
    jobs.settled()
    shutil.move(small_disk.folder / "results", small_disk.folder / "moved")
    consumes(jobs, 2)
    jobs.settled()


def test_an_embedded_broker_on_a_full_disk_is_found_and_goes_on(small_disk: SmallDisk) -> None:
    with EmbeddedBroker(small_disk.folder) as server:
        broker = Broker(server.url)
        broker.publish("jobs", Message("before", "jobs.add", b"{}"))
        small_disk.fill()

        def refused() -> str:
            try:
                broker.publish("jobs", Message(new_id(), "jobs.add", b"{}"))
            except BrokerUnavailable as error:
                return str(error)
            return ""

        # Then producers are told what to do, and it is still the running broker of its folder
        text = eventually(refused, 20)
        assert "No space left on device" in text and "free space on the disk that holds its data" in text
        assert running_broker_url(small_disk.folder) == server.url
        count = broker.stream_length("jobs")
        # And with room it takes messages again, with all it had accepted
        small_disk.free()
        eventually(lambda: not refused(), 20)
        assert broker.stream_length("jobs") == count + 1
        server.stop()
        server.start()
        assert Broker(server.url).stream_length("jobs") == count + 1


def test_a_slow_disk_gets_larger_batches(jobs: Jobs, faulty_disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs.results = f"file://{faulty_disk.folder}"
    for name, value in faulty_disk.env.items():
        monkeypatch.setenv(name, value)
    faulty_disk.set(fsync_ms=50)
    messages = [Message(new_id(), "jobs.silent", b"{}") for _ in range(2000)]
    jobs.broker.publish_many([("jobs", message) for message in messages])
    jobs.pool("-l", "WARNING", concurrency=5)
    # Given 50 ms a sync, then many outcomes share each, although only five messages run at once
    eventually(lambda: jobs.broker.stream_length("jobs") == 0, 40)
    assert faulty_disk.fsyncs < len(messages) / 10
    assert jobs.outcome(messages[-1].id).state == "SUCCESS"
