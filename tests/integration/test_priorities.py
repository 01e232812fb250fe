"""Priorities in running pools: the order things run in, how soon an idle worker starts, and that nothing gets lost."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import OwnServer, Started, eventually, taskstream_command
from jobs import Jobs, kill, worker_processes

from taskstream import keys
from taskstream.broker import Envelope
from taskstream.broker.letters import Letters
from taskstream.broker.script import Script
from taskstream.control import STARTED, STOPPED, Control
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message, encode_json, fields_json, new_id

RANKED = keys.ranked("jobs", QUEUE_GROUP)
BLOCK_S = 5.0
"""How long a reader waits on the server: what starts sooner was not found by chance."""

Make = Callable[[Path], Jobs]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """An app in a folder, on a server of its own; pools and servers are gone at the end."""
    ends: list[Callable[[], object]] = []

    def start(*arguments: str, cwd: Path, env: dict[str, str]) -> Started:
        command = taskstream_command(*arguments)
        process = Started(command, cwd=cwd, env={**os.environ, **env}, output=cwd / f"output-{len(ends)}")
        ends.append(process.remove)
        return process

    def build(folder: Path) -> Jobs:
        (folder / "valkey").mkdir()
        server = OwnServer(folder / "valkey")
        jobs = Jobs(folder, server.url, start)
        ends.extend((server.stop, jobs.broker.close))
        return jobs

    yield build
    for end in reversed(ends):
        end()


@dataclass
class Pools:
    """Three pools, each with an app and a server of its own, started together because that takes the longest.

    ``single``: one process with one slot; ``sharing``: one with two slots for two queues; of both the renewals come
    too rarely to tell of anything in time. ``pair``: two processes with one slot each, and a short lease.
    """

    single: Jobs
    sharing: Jobs
    pair: Jobs
    pair_pool: Started


@pytest.fixture(scope="module")
def pools(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Pools:
    single, sharing, pair = (make(tmp_path_factory.mktemp(name)) for name in ("single", "sharing", "pair"))
    single.pool(lease=60, concurrency=1)
    sharing.pool("-Q", "jobs,other", lease=60, concurrency=2)
    found = Pools(single, sharing, pair, pair.pool(processes=2, concurrency=1))
    for jobs in (single, sharing):
        jobs.running()
    pair.running(2)
    return found


@pytest.fixture
def single(pools: Pools) -> Jobs:
    return pools.single


def busy(jobs: Jobs, *names: str) -> None:
    """Let slots be taken until ``jobs.go(*names)``."""
    for name in names:
        jobs.send("slow", name)
    started(jobs, *names)


def started(jobs: Jobs, *names: str, times: int = 1) -> None:
    """Wait until each of ``slow`` calls has started so often."""
    eventually(lambda: all(len(jobs.runs("start", name)) == times for name in names), 20)


def send(jobs: Jobs, priorities: Sequence[int]) -> None:
    """``add(priority, number)`` for each, in order."""
    for number, priority in enumerate(priorities):
        jobs.send("add", priority, number, priority=priority)


def ran(jobs: Jobs) -> list[tuple[int, int]]:
    """Priority and number, in the order they started."""
    lines = [line.split() for line in (jobs.folder / "runs").read_text(encoding="utf-8").splitlines()]
    return [(int(line[1]), int(line[2])) for line in lines if line[0] == "add"]


def in_order(priorities: Sequence[int]) -> list[tuple[int, int]]:
    """What one slot makes of what waits: by priority, then as sent; but each tenth is the oldest of all."""
    waiting = [(priority, number) for number, priority in enumerate(priorities)]
    found = []
    while waiting:
        tenth = len(found) % 10 == 9
        first = min(waiting, key=lambda one: one[1] if tenth else one)  # type: ignore[arg-type, return-value]
        waiting.remove(first)
        found.append(first)
    return found


@pytest.fixture(autouse=True)
def _fresh(pools: Pools) -> Iterator[None]:
    """Nothing is left of a test, and the next one counts its runs from nothing."""
    yield
    for jobs in (pools.single, pools.sharing, pools.pair):
        jobs.settled()
        assert jobs.broker.client.exists(RANKED) == 0
        (jobs.folder / "runs").unlink(missing_ok=True)


def test_a_queue_without_priorities_pays_nothing(single: Jobs) -> None:
    client = single.broker.client
    single.outcome(single.send("add", 0, 0))
    before = commands(single)
    for number in range(30):
        single.outcome(single.send("add", number, number))
    after = commands(single)
    # Each was read, and once more nothing is there; that is all that readers asked for.
    assert after["xreadgroup"] - before["xreadgroup"] <= 31
    assert client.script_exists(Script("feed").sha) == [False]


def commands(jobs: Jobs) -> dict[str, int]:
    stats = jobs.broker.client.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(found["calls"]) for name, found in stats.items()}


def test_an_idle_worker_starts_a_message_of_another_priority_at_once(single: Jobs) -> None:
    for priority in (9, 0, 4):
        # Given a reader that waits on the server, where it does not see what comes
        single.outcome(single.send("add", 5, priority))
        eventually(lambda: blocked(single))
        sent = time.monotonic()
        single.send("add", priority, priority, priority=priority)
        eventually(lambda: len(ran(single)) % 2 == 0, BLOCK_S)
        assert time.monotonic() - sent < BLOCK_S / 2


def blocked(jobs: Jobs) -> bool:
    return int(jobs.broker.client.info("clients")["blocked_clients"]) >= 1


def test_one_slot_runs_what_waits_in_the_exact_order(single: Jobs) -> None:
    priorities = [9, 0, 5, 3, 5, 1, 9, 0, 7, 5, 2, 8, 4, 6, 5, 0, 9, 1, 5, 6, 3, 7]
    busy(single, "exact")
    send(single, priorities)
    state = single.state
    assert (state.waiting, state.held) == (len(priorities), 1)
    single.go("exact")
    eventually(lambda: len(ran(single)) == len(priorities))
    assert ran(single) == in_order(priorities)


def test_what_comes_while_it_works_takes_its_place(single: Jobs) -> None:
    busy(single, "first")
    send(single, [9, 5, 7])
    for name in ("second", "third"):
        single.send("slow", name, priority=3)
    single.go("first")
    started(single, "second")
    single.send("add", 4, 9, priority=4)
    single.send("add", 2, 9, priority=2)
    single.go("second")
    started(single, "third")
    assert ran(single) == [(2, 9)]
    single.go("third")
    eventually(lambda: len(ran(single)) == 5)
    assert ran(single) == [(2, 9), (4, 9), (5, 1), (7, 2), (9, 0)]


def test_the_least_of_all_is_not_starved_by_a_stream_of_urgent_ones(single: Jobs) -> None:
    busy(single, "stream")
    single.send("add", 9, 0, priority=9)
    single.send("add", 5, 0)
    sent = 30
    for number in range(sent):
        single.send("add", 0, number, priority=0)
    single.go("stream")
    # As many come as run: however fast it is, there is always an urgent one
    while len(ran(single)) < 30:
        if sent - len(ran(single)) < 20:
            single.send("add", 0, sent, priority=0)
            sent += 1
    eventually(lambda: len(ran(single)) == sent + 2)
    assert ran(single)[:20].index((9, 0)) == 9
    assert ran(single)[:20].index((5, 0)) == 19


def test_retries_and_requeued_letters_come_back_by_priority_and_age(single: Jobs) -> None:
    busy(single, "retry")
    single.send("flaky", "late", priority=7)
    single.send("broken", "worse", priority=7)
    single.go("retry")
    eventually(lambda: single.state.dead == 1)
    eventually(lambda: len(single.runs("flaky", "late")) == 2)
    assert len(single.runs("broken", "worse")) == 3
    busy(single, "requeue")
    send(single, [9, 7, 6, 0])
    letters = Letters(single.broker, "jobs", QUEUE_GROUP)
    ((letter, _),) = letters.get(list(map(bytes.decode, single.letters())))
    assert [verdict.done for verdict in letters.requeue(letter)] == [True]
    (single.folder / "runs").unlink()
    single.go("requeue")
    eventually(lambda: len(ran(single)) == 4 and single.state.dead == 1)
    lines = (single.folder / "runs").read_text(encoding="utf-8").splitlines()
    assert [line.split()[1] for line in lines if "requeue" not in line][:4] == ["0", "6", "worse", "7"]
    for letter, _ in letters.get(list(map(bytes.decode, single.letters()))):
        letters.purge(letter)


def test_a_stop_and_a_start_keep_all(single: Jobs) -> None:
    busy(single, "stop")
    send(single, [9, 0, 5])
    control = Control(single.broker)
    assert [reply.ok for reply in control.set_state("jobs", QUEUE_GROUP, STOPPED)] == [True]
    single.go("stop")
    single.settled(waiting=3)
    assert ran(single) == []
    control.set_state("jobs", QUEUE_GROUP, STARTED)
    eventually(lambda: len(ran(single)) == 3)
    assert ran(single) == [(0, 1), (5, 2), (9, 0)]


def test_two_workers_run_the_urgent_ones_first(pools: Pools) -> None:
    jobs = pools.pair
    rng = random.Random(4)
    priorities = [rng.randrange(10) for _ in range(150)]
    busy(jobs, "left", "right")
    send(jobs, priorities)
    jobs.go("left", "right")
    eventually(lambda: len(ran(jobs)) == len(priorities), 20)
    found = ran(jobs)
    assert sorted(number for _, number in found) == list(range(150))
    # The other worker may be one ahead in starting; else only each tenth of a worker goes before more urgent ones.
    before_others = sum(any(later < one for later, _ in found[at + 2 :]) for at, (one, _) in enumerate(found))
    assert before_others <= 150 // 10 + 2


def test_a_hint_that_is_lost_costs_no_more_than_a_renewal(pools: Pools) -> None:
    jobs = pools.pair
    # Given that no reader looks for priorities, because it has seen none for long: neither script tells of these
    eventually(lambda: blocked(jobs))
    message = Message(new_id(), "jobs.add", encode_json({"args": [8, 8]}), priority=8, sent_ms=1_000)
    sent = time.monotonic()
    jobs.broker.client.zadd(RANKED, {fields_json(message): 8e13 + 1_000})
    jobs.outcome(message.id, BLOCK_S)
    assert time.monotonic() - sent < BLOCK_S - 1


def test_killed_workers_lose_none_and_the_rest_keeps_its_order(pools: Pools) -> None:
    jobs, pool = pools.pair, pools.pair_pool
    for name in ("held", "kept"):
        jobs.send("slow", name, priority=1)
    started(jobs, "held", "kept")
    rng = random.Random(5)
    send(jobs, [rng.randrange(10) for _ in range(60)])
    for pid in worker_processes(pool):
        kill(pid, signal.SIGKILL)
    # Then those run once more, before anything that waited
    started(jobs, "held", "kept", times=2)
    assert ran(jobs) == []
    jobs.go("held", "kept")
    eventually(lambda: len(ran(jobs)) >= 10)
    kill(worker_processes(pool)[0], signal.SIGKILL)
    eventually(lambda: {number for _, number in ran(jobs)} == set(range(60)), 20)


def test_subscriptions_that_share_slots(pools: Pools) -> None:
    jobs = pools.sharing
    busy(jobs, "one", "two")
    for at, queue in enumerate(("jobs", "other")):
        for priority in (9, 5, 0, 3):
            send_to(jobs, queue, priority, at)
    jobs.go("one")
    eventually(lambda: len(ran(jobs)) == 8)
    # Then one slot served both, each by its priorities
    for at in (0, 1):
        assert [priority for priority, queue in ran(jobs) if queue == at] == [0, 3, 5, 9]
    jobs.go("two")
    jobs.settled()
    # And a reader that waits with a part of the slots starts what comes to its queue at once
    for at, queue in enumerate(("jobs", "other"), 2):
        eventually(lambda: blocked(jobs))
        send_to(jobs, queue, 9, at)
        eventually(lambda: ran(jobs)[-1] == (9, at), BLOCK_S / 2)  # noqa: B023 called before the next round


def send_to(jobs: Jobs, queue: str, priority: int, number: int) -> None:
    body = encode_json({"args": [priority, number]})
    jobs.broker.send(Envelope(queue, Message(new_id(), "jobs.add", body, priority=priority)))
