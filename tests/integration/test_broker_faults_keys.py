"""Keys that somebody broke: one broken stream stops no other, and what is held waits until it is mended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import Started, eventually
from jobs import Jobs, worker_processes

from taskstream import keys
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message

TWO = """
from pathlib import Path
from taskstream import Taskstream

app = Taskstream("two", results=None)

@app.task(queue="left")
def left(key: str) -> None:
    (Path(__file__).parent / f"left-{key}").touch(exist_ok=False)

@app.task(queue="right")
def right(key: str) -> None:
    (Path(__file__).parent / f"right-{key}").touch(exist_ok=False)
"""


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Iterator[Jobs]:
    """The app, without a pool."""
    jobs = Jobs(tmp_path, broker_url, start_cli)
    yield jobs
    jobs.broker.close()


def stops_clean(jobs: Jobs, pool: Started) -> None:
    """The pool ends and leaves no consumer."""
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
    assert jobs.state.consumers == 0


def test_a_broken_stream_stops_no_other(jobs: Jobs, start_cli: Callable[..., Started]) -> None:
    (jobs.folder / "two.py").write_text(TWO)
    pool = start_cli("worker", "-A", "two:app", "--broker", jobs.url, "--processes", "1", cwd=jobs.folder)
    jobs.running()

    def done(queue: str, key: str) -> None:
        jobs.broker.publish(queue, Message(f"{queue}-{key}", f"two.{queue}", b'{"args":["%s"]}' % key.encode()))
        eventually(lambda: (jobs.folder / f"{queue}-{key}").exists())

    def worker_state() -> str:
        return str(jobs.running()[0]["state"])

    done("left", "a")
    done("right", "a")
    # When the stream of one of them becomes text while its reader waits on it
    jobs.broker.client.set("left", "text", ex=60)
    # Then the other one goes on
    for key in "bcd":
        done("right", key)
    eventually(lambda: worker_state() == "running")
    # And a worker that reads nothing at all says so, although it is connected and keeps its leases
    jobs.broker.client.set("right", "text", ex=60)
    eventually(lambda: worker_state() == "disconnected", 20)
    # And when they are mended it goes on by itself
    jobs.broker.client.delete("left", "right")
    eventually(lambda: jobs.broker.group_states("left") and jobs.broker.group_states("right"))
    done("left", "e")
    done("right", "e")
    eventually(lambda: worker_state() == "running")
    said = [line for line in pool.output.splitlines() if "| WARNING" in line or "| ERROR" in line]
    assert len(said) <= 8, pool.output
    assert any("WRONGTYPE" in line and "left" in line for line in said)


def test_what_cannot_be_put_away_stays_held(jobs: Jobs) -> None:
    pool = jobs.pool()
    jobs.running()
    delayed, letters = keys.delayed("jobs", QUEUE_GROUP), keys.letters("jobs", QUEUE_GROUP)
    # Given a place for retries that is none
    jobs.broker.client.set(delayed, "text", ex=60)
    one = jobs.send("flaky", "a")
    eventually(lambda: jobs.runs("flaky", "a"))
    eventually(lambda: "Commit has no answer" in pool.output and "cannot be promoted" in pool.output)
    assert jobs.broker.call("XPENDING", "jobs", QUEUE_GROUP)[0] == 1
    assert jobs.broker.call("XLEN", "jobs") == 1
    # When it is mended, the retry takes place
    jobs.broker.client.delete(delayed)
    assert jobs.outcome(one).delivery == 2
    # And so it is with dead letters
    jobs.broker.client.set(letters, "text", ex=60)
    dead = jobs.send("fails", "exit")
    eventually(lambda: "letters" in pool.output)
    assert jobs.broker.call("XPENDING", "jobs", QUEUE_GROUP)[0] == 1
    jobs.broker.client.delete(letters)
    jobs.settled(dead=1)
    assert list(jobs.letters()) == [dead.encode()]
    assert len(jobs.runs("flaky", "a")) == 2 and len(jobs.runs("fails", "exit")) == 1
    said = [line for line in pool.output.splitlines() if "| WARNING" in line or "| ERROR" in line]
    assert len([line for line in said if "FAILED" not in line]) <= 4, pool.output
    stops_clean(jobs, pool)


def test_groups_and_consumers_changed_by_hand(jobs: Jobs) -> None:
    pool = jobs.pool(concurrency=3)
    jobs.running()
    held = [jobs.send("slow", key) for key in "ab"]
    eventually(lambda: all(jobs.runs("start", key) for key in "ab"))
    # When the group is set back, what is held here is handed out again, to the same consumer
    jobs.broker.call("XGROUP", "SETID", "jobs", QUEUE_GROUP, "0")
    assert jobs.outcome(jobs.send("add", 1, 0)).state == "SUCCESS"
    eventually(lambda: jobs.broker.call("XPENDING", "jobs", QUEUE_GROUP)[0] == 2)
    # When the consumer is deleted with all it holds
    (consumer,) = jobs.broker.client.xinfo_consumers("jobs", QUEUE_GROUP)
    assert jobs.broker.call("XGROUP", "DELCONSUMER", "jobs", QUEUE_GROUP, consumer["name"]) == 2
    assert jobs.outcome(jobs.send("add", 2, 0)).delivery == 1
    # Then what runs is finished, once
    jobs.go("a", "b")
    assert [jobs.outcome(one).state for one in held] == ["SUCCESS"] * 2
    eventually(lambda: jobs.broker.call("XLEN", "jobs") == 0)
    jobs.settled()
    assert all(len(jobs.runs("start", key)) == 1 for key in "ab")
    stops_clean(jobs, pool)


def test_a_takeover_among_nonsense(jobs: Jobs) -> None:
    first = jobs.pool("-n", "first")
    jobs.running()
    one = jobs.send("slow", "a")
    eventually(lambda: jobs.runs("start", "a"))
    # Given leases of nobody, one of them no text, old ones and one of a clock set back; and deaths that are no numbers
    leases, deaths = keys.leases("jobs", QUEUE_GROUP), keys.deaths("jobs", QUEUE_GROUP)
    jobs.broker.client.zadd(leases, {"foreign": 12345, b"\xff\xfe": 0, "future": 9e15})
    jobs.broker.client.hset(deaths, mapping={one: "text", "x": "y"})
    jobs.pool("-n", "second")
    jobs.running(2)
    eventually(lambda: jobs.broker.client.zcard(leases) == 3)
    # When all of the first pool is killed at once
    for pid in (first.pid, *worker_processes(first)):
        os.kill(pid, signal.SIGKILL)
    # Then the other takes over what it held
    eventually(lambda: len(jobs.runs("start", "a")) == 2, 15)
    jobs.go("a")
    assert jobs.outcome(one).delivery == 2
    jobs.settled()
    jobs.broker.client.delete(deaths)
