"""A server that ends and comes back, with its data or without: nothing is lost, nothing runs twice, nobody restarts."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from box import patience
from helpers import OwnServer, Started, eventually
from jobs import Jobs

from taskstream.errors import BrokerUnavailable
from taskstream.handler import QUEUE_GROUP

LONG = os.environ.get("TASKSTREAM_LONG_TESTS") == "1"
ROUNDS = 10 if LONG else 3


@pytest.fixture
def jobs(tmp_path: Path, own_valkey: OwnServer, start_cli: Callable[..., Started]) -> Iterator[Jobs]:
    """The app at a server of its own, without a pool."""
    jobs = Jobs(tmp_path, own_valkey.url, start_cli)
    yield jobs
    jobs.broker.close()


def send(jobs: Jobs, *call: object) -> str:
    """Send as soon as the broker takes it."""

    def sent() -> str:
        try:
            return jobs.send(*call)  # type: ignore[arg-type]
        except BrokerUnavailable:
            return ""

    return eventually(sent, 20)


def ran_once(jobs: Jobs, task: str, keys: list[str]) -> None:
    """Each of ``keys`` has started exactly once."""
    lines = (jobs.folder / "runs").read_text(encoding="utf-8").splitlines()
    found = Counter(line.split(" ")[1] for line in lines if line.startswith(f"{task} "))
    assert found == Counter(keys)


def stops_clean(jobs: Jobs, *pools: Started) -> None:
    """The pools end at once, and leave neither a consumer nor a lease."""
    for pool in pools:
        pool.send(signal.SIGTERM)
    for pool in pools:
        assert pool.wait() == 0, pool.output
    assert jobs.state.consumers == 0
    assert not jobs.broker.client.exists(f"ts:{{jobs}}:leases:{QUEUE_GROUP}")


def lines(pool: Started) -> list[str]:
    """Lines of its log that an operator would look at."""
    return [line for line in pool.output.splitlines() if "| WARNING |" in line or "| ERROR |" in line]


@pytest.mark.parametrize("lease", [1, 6] if LONG else [1])
def test_the_first_message_runs_soon_after_the_server_is_back(jobs: Jobs, own_valkey: OwnServer, lease: int) -> None:
    pool = jobs.pool(lease=lease)
    jobs.running()
    took = []
    for number in range(ROUNDS):
        own_valkey.kill()
        # Longer than a lease, when the pauses between tries have grown to their longest
        time.sleep(1.5 * lease)
        own_valkey.start()
        back = time.monotonic()
        one = jobs.send("add", number, 0)
        eventually(lambda number=number: jobs.runs("add", str(number), "0"), 20)  # type: ignore[misc]
        took.append(time.monotonic() - back)
        assert jobs.outcome(one).delivery == 1
    took.sort()
    print(f"server back to first processed, lease {lease} s: p50 {took[len(took) // 2]:.2f} s, max {took[-1]:.2f} s")
    assert took[-1] < max(2.0, patience(1.0)), took
    assert len(lines(pool)) <= 3 * ROUNDS, pool.output
    stops_clean(jobs, pool)


def test_killed_under_load_again_and_again(jobs: Jobs, own_valkey: OwnServer) -> None:
    pools = [jobs.pool("-n", name, processes=2) for name in ("a", "b")]
    jobs.running(4)
    # Given messages of every kind: running for longer than the outages, waiting, to be retried, and more all the time
    held = {key: jobs.send("slow", key) for key in (f"s{number}" for number in range(8))}
    eventually(lambda: all(jobs.runs("start", key) for key in held))
    accepted: dict[str, str] = {}
    doubtful: set[str] = set()
    stop = threading.Event()

    def produce() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            task, key = ("flaky", f"f{number}") if number % 4 == 0 else ("add", str(number))
            try:
                accepted[key] = jobs.send(task, key) if task == "flaky" else jobs.send(task, number, 0)
            except BrokerUnavailable as error:
                if error.maybe_sent:
                    doubtful.add(key)
                stop.wait(0.05)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for number in range(5 if LONG else 3):
            sent = len(accepted)
            eventually(lambda sent=sent: len(accepted) > sent + 100, 20)  # type: ignore[misc]
            own_valkey.kill()
            if number == 1:
                # Messages end, and every lease runs out, while there is no server
                jobs.go(*list(held)[:4])
                time.sleep(1.5)
            own_valkey.start()
        eventually(lambda: len(accepted) > sent + 200, 20)
    finally:
        stop.set()
        producer.join()
    jobs.go(*held)
    # Then everything that was accepted is done, by its first delivery where nothing failed
    for key, one in (accepted | held).items():
        outcome = jobs.outcome(one)
        tries = 2 if key.startswith("f") else 1
        assert (outcome.state, outcome.attempts, outcome.delivery) == ("SUCCESS", tries, tries), (key, outcome)
    jobs.settled()
    runs = Counter((jobs.folder / "runs").read_text(encoding="utf-8").split("\n"))
    found = Counter(" ".join(line.split(" ")[:2]) for line in runs.elements() if line)
    for key in accepted | held:
        task, times = ("flaky", 2) if key.startswith("f") else ("start" if key.startswith("s") else "add", 1)
        assert found[f"{task} {key}"] == times, key
    assert all(found[f"add {key}"] <= 1 and found[f"flaky {key}"] <= 2 for key in doubtful)
    assert len(jobs.running(4)) == 4
    assert all("Took over" not in pool.output for pool in pools)
    assert max(len(lines(pool)) for pool in pools) < 200, pools[0].output
    stops_clean(jobs, *pools)


def flushed(jobs: Jobs, server: OwnServer) -> None:
    """FLUSHALL under everybody's connections."""
    jobs.broker.client.flushall()


def replaced(jobs: Jobs, server: OwnServer) -> None:
    """Another server in its place, which knows nothing; away for longer than a lease."""
    server.kill()
    shutil.rmtree(server.folder / ".taskstream")
    time.sleep(1.5)
    server.start()


@pytest.mark.parametrize("forget", [flushed, replaced])
def test_a_server_that_comes_back_empty(
    jobs: Jobs, own_valkey: OwnServer, forget: Callable[[Jobs, OwnServer], None]
) -> None:
    # Given messages that run, wait and are delayed, in two pools
    pools = [jobs.pool("-n", name, concurrency=2) for name in ("a", "b")]
    jobs.running(2)
    running = [jobs.send("slow", key) for key in "abcd"]
    eventually(lambda: all(jobs.runs("start", key) for key in "abcd"))
    for number in range(10):
        jobs.send("add", number, 0)
    jobs.broker.client.zadd(f"ts:{{jobs}}:delayed:{QUEUE_GROUP}", {'["id","x"]': 9e15})
    # When the server forgets everything
    forget(jobs, own_valkey)
    # Then workers go on soon, under new names, with what comes from now on
    eventually(lambda: jobs.broker.client.zcard(f"ts:{{jobs}}:leases:{QUEUE_GROUP}") == 2)
    fresh = [send(jobs, "add", number, 1) for number in range(4)]
    jobs.go(*"abcd")
    assert [jobs.outcome(one).delivery for one in fresh] == [1] * 4
    eventually(lambda: all(jobs.runs("end", key) for key in "abcd"))
    jobs.settled()
    eventually(lambda: jobs.state.consumers == 2)
    # And what ran was not started again, nor was what is gone
    assert all(len(jobs.runs("start", key)) == 1 for key in "abcd")
    assert all(jobs.found(one) is None or jobs.found(one).delivery == 1 for one in running)  # type: ignore[union-attr]
    assert not any(jobs.runs("add", str(number), "0") for number in range(10))
    assert max(len(lines(pool)) for pool in pools) <= 8, pools[0].output
    stops_clean(jobs, *pools)


def test_a_server_that_hangs_lets_nobody_take_over(jobs: Jobs, own_valkey: OwnServer) -> None:
    pools = [jobs.pool("-n", name, processes=2) for name in ("a", "b")]
    jobs.running(4)
    ids = [jobs.send("slow", f"s{number}") for number in range(12)]
    eventually(lambda: all(jobs.runs("start", f"s{number}") for number in range(12)))
    # When it stands still for longer than a lease, with every connection kept: renewals and sweeps wait in a row
    for _ in range(10 if LONG else 1):
        os.kill(own_valkey.pid, signal.SIGSTOP)
        time.sleep(2.0)
        os.kill(own_valkey.pid, signal.SIGCONT)
        assert jobs.outcome(send(jobs, "add", 1, 1)).delivery == 1
    jobs.go(*(f"s{number}" for number in range(12)))
    assert [jobs.outcome(one).delivery for one in ids] == [1] * 12
    jobs.settled()
    ran_once(jobs, "start", [f"s{number}" for number in range(12)])
    assert all("Took over" not in pool.output for pool in pools)
    stops_clean(jobs, *pools)
