"""Limits and periodic tasks with real pools: held over all workers, whoever is killed, and nothing stays behind."""

from __future__ import annotations

import os
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import OwnServer, Started, eventually
from jobs import Jobs, kill, worker_processes

from taskstream import keys
from taskstream.handler import QUEUE_GROUP

TASKS = """

def noted(event, name):
    with open(HERE / "events", "a") as file:
        file.write(f"{event} {name} {time.time()} {os.getpid()}\\n")


def held(name, seconds=0.1):
    noted("begin", name)
    try:
        time.sleep(seconds)
    finally:
        noted("end", name)


@app.task(max_concurrency=3)
def few(key: str) -> str:
    held("few")
    return key


@app.task(max_concurrency=1, limit_key=lambda key: key[0])
def by_key(key: str) -> str:
    held(f"key-{key[0]}", 0.05)
    return key


@app.task(max_concurrency=2, autoretry_for=(ValueError,), retry_backoff=0.05)
def fails_once(key: str) -> str:
    held("fails_once", 0.05)
    if not (HERE / f"failed-{key}").exists():
        (HERE / f"failed-{key}").touch()
        raise ValueError(key)
    return key


@app.task(rate_limit=20)
def paced(key: str) -> str:
    noted("at", "paced")
    return key


@app.task(max_concurrency=1)
def one(key: str) -> str:
    note("one", key)
    wait_for(f"go-{key}")
    return key


@app.task(max_concurrency=1, limit_key=lambda key: {}[key])
def no_key(key: str) -> None:
    note("no_key", key)
"""

PERIODIC = """

@app.periodic(every=1.0)
@app.task(bind=True)
def often(self) -> None:
    note("often", self.request.id)
"""


class Limited(Jobs):
    """The app with limited tasks too."""

    def __init__(self, folder: Path, url: str, start: Callable[..., Started], more: str = TASKS) -> None:
        super().__init__(folder, url, start)
        with (folder / "jobs.py").open("a", encoding="utf-8") as file:
            file.write(more)
        self.killed: dict[int, float] = {}

    def kill(self, pid: int) -> None:
        """SIGKILL a worker process; what it ran has ended by then."""
        kill(pid, signal.SIGKILL)
        eventually(lambda: not _runs(pid))
        self.killed[pid] = time.time()

    def events(self) -> list[tuple[str, str, float, int]]:
        """What limited tasks noted: begin, end or at, a name, when, in which process."""
        try:
            lines = (self.folder / "events").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [(event, name, float(at), int(pid)) for event, name, at, pid in map(str.split, lines)]

    def most_at_once(self) -> dict[str, int]:
        """By name, how many ran at the same time; what a killed process had begun ended with it."""
        steps: list[tuple[float, int, str]] = []
        open_: Counter[tuple[str, int]] = Counter()
        for event, name, at, pid in self.events():
            if event != "at":
                steps.append((at, 1 if event == "begin" else -1, name))
                open_[name, pid] += 1 if event == "begin" else -1
        for (name, pid), count in open_.items():
            if count:
                steps += [(self.killed[pid], -1, name)] * count
        most: Counter[str] = Counter()
        now: Counter[str] = Counter()
        for _, step, name in sorted(steps):
            now[name] += step
            most[name] = max(most[name], now[name])
        assert not any(now.values())
        return dict(most)

    def kept(self) -> list[str]:
        """Keys of limits that are left, but those of rates, which end by themselves."""
        kinds = ("slots", "parked", "parking")
        return [key.decode() for kind in kinds for key in self.broker.client.scan_iter(f"ts:{{jobs}}:{kind}*")]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def limited(broker_url: str, tmp_path: Path, start_cli: Callable[..., Started]) -> Limited:
    return Limited(tmp_path, broker_url, start_cli)


def test_limits_hold_over_two_pools_whoever_is_killed(limited: Limited) -> None:
    # Given two pools of two processes, and more calls than may run at once
    chance = random.Random(7)
    pools = [limited.pool(processes=2, concurrency=10) for _ in range(2)]
    limited.running(4)
    calls = [("few", f"{number}") for number in range(30)]
    calls += [("by_key", f"{'abc'[number % 3]}{number}") for number in range(24)]
    calls += [("fails_once", f"f{number}") for number in range(12)]
    calls += [("paced", f"{number}") for number in range(24)]
    chance.shuffle(calls)
    sent = [limited.send(*call) for call in calls]
    # When processes are killed while they run
    eventually(lambda: len(limited.events()) > 10)
    for _ in range(4):
        limited.kill(chance.choice([pid for pool in pools for pid in worker_processes(pool)]))
        time.sleep(chance.uniform(0.2, 0.6))
    # Then every call is done,
    assert {limited.outcome(message_id, 30).state for message_id in sent} == {"SUCCESS"}
    limited.settled()
    # never more at once than may be, in all pools together, and as many as may be,
    most = limited.most_at_once()
    assert most == {"few": 3, "key-a": 1, "key-b": 1, "key-c": 1, "fails_once": 2}
    # nor faster, but for what the machine makes of it: 24 calls are 1.15 s apart from first to last.
    times = sorted(at for event, name, at, _ in limited.events() if name == "paced")
    assert times[23] - times[0] > 1.15 - 0.25
    # and no slot is kept, and nobody waits for one.
    eventually(lambda: not limited.kept(), message=lambda: str(limited.kept()))


def test_what_waits_for_a_slot_survives_every_worker_and_a_stop(limited: Limited) -> None:
    # Given one that has the only slot, and four that wait for it
    pool = limited.pool(concurrency=10)
    limited.running()
    first = limited.send("one", "a")
    eventually(lambda: limited.runs("one", "a"))
    rest = [limited.send("one", key) for key in "bcde"]
    parked = keys.parked("jobs", "jobs.one")
    eventually(lambda: limited.broker.client.llen(parked) == 4)
    assert limited.state.waiting == 4
    # When everything is killed at once, and another pool starts with consumption stopped
    for process in pool.family():
        process.kill()
    limited.broker.set_state("jobs", QUEUE_GROUP, "stopped")
    assert limited.broker.client.llen(parked) == 4
    other = limited.pool(concurrency=10)
    limited.running(1)
    limited.go(*"abcde")
    assert limited.runs("one", "b") == []
    # and is let consume, and dies once more
    limited.broker.set_state("jobs", QUEUE_GROUP, "started")
    assert limited.outcome(first).state == "SUCCESS"
    limited.kill(worker_processes(other)[0])
    # Then all run, one after the other.
    assert {limited.outcome(message_id, 30).state for message_id in rest} == {"SUCCESS"}
    limited.settled()
    eventually(lambda: not limited.kept(), message=lambda: str(limited.kept()))
    # And where slots are kept for messages that nobody has, they are found.
    limited.broker.client.hset(
        keys.slots("jobs", "jobs.few"), mapping={f"ghost-{number}": "2 9-9" for number in range(3)}
    )
    assert limited.outcome(limited.send("few", "z")).state == "SUCCESS"
    # And a key that cannot be had is the call's failure.
    failed = limited.outcome(limited.send("no_key", "x"))
    assert failed.state == "FAILURE" and failed.error is not None and failed.error.type == "KeyError"
    assert limited.runs("no_key", "x") == []


def test_a_tick_is_launched_once_by_five_processes_over_a_restart_of_redis(
    own_valkey: OwnServer, tmp_path: Path, start_cli: Callable[..., Started]
) -> None:
    # Given five processes that all know a schedule of every second
    limited = Limited(tmp_path, own_valkey.url, start_cli, PERIODIC)
    limited.pool(processes=5)
    eventually(lambda: len(limited.broker.workers()) == 5, 60)
    eventually(lambda: len(ticks(limited)) >= 2)
    # When Redis is killed, and comes back two ticks later
    own_valkey.kill()
    time.sleep(2.2)
    own_valkey.start()
    back = time.time()
    eventually(lambda: any(tick > back + 1 for tick in ticks(limited)), 20)
    # Then each tick was launched once; of those it missed, at most the last one
    found = ticks(limited)
    assert set(found.values()) == {1}
    assert sum(back - 2.2 < tick <= back for tick in found) <= 2
    steps = sorted(found)
    assert all(tick == int(tick) for tick in steps)
    assert steps[-1] - steps[0] + 1 - len(steps) >= 1


def ticks(limited: Limited) -> Counter[float]:
    """How often each tick ran (s since the epoch)."""
    lines = (
        (limited.folder / "runs").read_text(encoding="utf-8").splitlines() if (limited.folder / "runs").exists() else []
    )
    ids = [line.split()[1] for line in lines if line.startswith("often ")]
    return Counter(int.from_bytes(uuid.UUID(message_id).bytes[:6], "big") / 1000 for message_id in ids)
