"""Workflows with real pools: what they come to, failure and requeueing, ten thousand members, SIGKILL at any moment."""

from __future__ import annotations

import importlib.util
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from helpers import Started, eventually
from jobs import kill, worker_processes

from taskstream import GroupResult, TaskFailed, TaskTimeout, chain, chord, group
from taskstream.broker import Broker
from taskstream.broker.letters import Filter, Letters
from taskstream.handler import QUEUE_GROUP

MODULE = """
import asyncio
import time
from pathlib import Path

from taskstream import Taskstream

HERE = Path(__file__).parent
app = Taskstream("flows", results="file://results")


def note(*words):
    with open(HERE / "runs", "a") as file:
        file.write(" ".join(map(str, words)) + "\\n")


@app.task
def inc(value: int, by: int = 1) -> int:
    return value + by


@app.task
async def later(value: int) -> int:
    await asyncio.sleep(0.01)
    return value + 1


@app.task(max_deliveries=100)
def step(history: list[int], number: int) -> list[int]:
    note("step", number, *history)
    time.sleep(0.05)
    return [*history, number]


@app.task(max_deliveries=100)
def member(number: int) -> int:
    note("member", number)
    time.sleep(0.05)
    return number


@app.task(queue="sums", max_deliveries=100)
def total(values: list[int]) -> int:
    note("total", *values)
    return sum(values)


@app.task(ignore_result=True)
def silent(value: int) -> int:
    return value * 10


@app.task(autoretry_for=(ValueError,), retry_backoff=0.05)
def flaky(value: int) -> int:
    if not (HERE / f"failed-{value}").exists():
        (HERE / f"failed-{value}").touch()
        raise ValueError("first time")
    return value


@app.task
def broken(value: int) -> int:
    if (HERE / "mended").exists():
        return value
    raise ValueError(f"cannot do {value}")


@app.task
def slow(value: int) -> int:
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return value


@app.task(timeout=0.2)
def endless(value: int) -> int:
    time.sleep(60)


@app.task
def unfit(value: int) -> object:
    return {object()}
"""

OTHER_RELEASE = """
from taskstream import Taskstream

app = Taskstream("flows", results="file://results")


@app.task
def inc(value: int, by: int = 1) -> int:
    return value + by
"""


class Flows:
    """The app in a folder: its tasks here, its pools, what it noted."""

    def __init__(self, folder: Path, url: str, start: Callable[..., Started]) -> None:
        self.folder = folder
        self.url = url
        self._start = start
        folder.mkdir(exist_ok=True)
        (folder / "flows_app.py").write_text(MODULE, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"flows_app_{id(self)}", folder / "flows_app.py")
        assert spec is not None and spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where annotations are looked up
        spec.loader.exec_module(module)
        self.module = module
        self.app = module.app
        self.app.override(url)

    def pool(self, *options: str, module: str = "flows_app", processes: int = 2, concurrency: int = 10) -> Started:
        numbers = ("--lease", "1", "--processes", str(processes), "--concurrency", str(concurrency))
        return self._start("worker", "-A", f"{module}:app", "--broker", self.url, *numbers, *options, cwd=self.folder)

    def noted(self, *words: object) -> list[list[int]]:
        """The numbers after ``words`` in each line that begins so; all lines where they say nothing."""
        try:
            lines = (self.folder / "runs").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        begin = [str(word) for word in words]
        found = [line.split() for line in lines]
        return [
            [int(one) for one in line[len(begin) :] if one.isdigit()] for line in found if line[: len(begin)] == begin
        ]

    def requeue(self, queue: str = "flows") -> int:
        """All dead letters of a queue."""
        broker = Broker(self.url)
        letters = Letters(broker, queue, QUEUE_GROUP)
        done = sum(verdict.done for page in letters.find(Filter()) for verdict in letters.requeue(page.letters))
        broker.close()
        return done

    def close(self) -> None:
        self.app.close()
        del sys.modules[self.module.__name__]


@pytest.fixture
def flows(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Iterator[Flows]:
    made = Flows(tmp_path / "flows", broker_url, start_cli)
    yield made
    made.close()


def fails_with(handle: Any, within: float = 10.0) -> TaskFailed:
    started = time.monotonic()
    with pytest.raises(TaskFailed) as caught:
        handle.get(30)
    assert time.monotonic() - started < within
    return caught.value


def test_workflows_of_every_kind(flows: Flows, redis_client: redis.Redis) -> None:
    # Given a pool
    at = flows.module
    flows.pool()
    # When workflows are started, then they come to what plain calls would
    assert chain(at.inc.s(1), at.later.s(), at.inc.s(by=10)).delay().get(20) == 13
    assert group(at.inc.s(n) for n in range(5)).delay().get(20) == [1, 2, 3, 4, 5]
    assert chord((at.later.s(n) for n in range(5)), at.total.s())().get(20) == 15
    nested = chord(
        [group(at.inc.s(1), at.inc.s(2)) | at.total.s(), at.inc.s(3) | at.inc.s()], at.total.s() | at.inc.s()
    )
    assert nested.delay().get(20) == 11
    groups = group(at.inc.s(1), at.inc.s(2)) | group(at.total.s(), at.total.s() | at.inc.s())
    handle = groups.delay()
    assert isinstance(handle, GroupResult) and handle.get(20) == [5, 6]
    assert handle.ready() and handle.successful() and not handle.failed() and handle.completed_count() == 2
    assert [one.get(5) for one in handle] == [5, 6] and handle.parent.get(5) == [2, 3]
    # ... also with retries, without a kept result, and with delays, priorities and expiry of steps
    assert chord([at.flaky.s(1), at.silent.s(2)], at.total.s())().get(20) == 21
    late = at.inc.s(1).set(priority=1) | at.inc.s().set(countdown=0.2, priority=9) | at.total.si([5]).set(expires=60)
    assert late.delay().get(20) == 5
    # ... and a start that is repeated is the one that was
    twice = [chord([at.inc.s(1)], at.total.s()).apply_async(idempotency_key="once") for _ in range(2)]
    assert twice[0] == twice[1] and twice[0].get(20) == 2
    assert flows.noted("total").count([2]) == 1

    # When a member fails while another one runs for long, then get() raises its error at once
    failed = [
        (group(at.slow.s(1), at.broken.s(2)), [1, 2]),
        (chord([at.slow.s(1), at.broken.s(2)], at.total.s()), 3),
        (chord([at.slow.s(1), at.broken.s(2) | at.inc.s() | at.inc.s()], at.total.s() | at.inc.s()), 6),
        (at.broken.s(2) | group(at.inc.s(), at.inc.s()) | at.total.s(), 6),
        (at.broken.s(2) | group(at.inc.s(), at.inc.s()), [3, 3]),
        (at.broken.s(2) | at.inc.s() | at.inc.s(), 4),
        (chord([at.inc.s(1), at.broken.s(2), at.broken.s(3) | at.inc.s()], at.total.s()), 8),
    ]
    handles = [(work.delay(), value) for work, value in failed]
    for handle, _ in handles:
        error = fails_with(handle, within=5.0)
        assert error.type_name == "ValueError" and error.message in ("cannot do 2", "cannot do 3"), error
        assert 'raise ValueError(f"cannot do {value}")' in error.traceback_text
    assert isinstance(fails_with((at.endless.s(1) | at.inc.s()).delay()), TaskTimeout)
    assert fails_with((at.unfit.s(1) | at.inc.s()).delay()).type_name == "ValidationError"
    assert fails_with((at.inc.s(1) | at.total.s()).delay()).type_name == "InvalidMessage"

    # When the cause is mended and the dead letters are requeued, then each goes on from there to its end
    (flows.folder / "go").touch()
    eventually(lambda: not Broker(flows.url).group_states("flows")[0].held)
    before = len(flows.noted("total"))
    (flows.folder / "mended").touch()
    assert flows.requeue() == 8 + 2
    for handle, value in handles:
        eventually(lambda handle=handle: handle.ready() and not came_to_failure(handle), 20)
        assert handle.get(5) == value
    assert sorted(flows.noted("total")[before:]) == [[1, 2], [1, 4], [2, 2, 4], [3, 3]]
    assert not list(redis_client.scan_iter("ts:*:chord:*"))


def came_to_failure(handle: Any) -> bool:
    return handle.failed() if isinstance(handle, GroupResult) else handle.state != "SUCCESS"


def test_a_chord_of_ten_thousand(flows: Flows) -> None:
    # Given a pool, and a group of 10,000 members with a callback
    at, members = flows.module, 10_000
    flows.pool(concurrency=100)
    handle = chord((at.inc.s(n) for n in range(members)), at.total.s())()
    # Then the group's values come in order, and so do the callback's
    values = list(range(1, members + 1))
    assert handle.parent.get(120) == values
    assert handle.get(60) == sum(values) and flows.noted("total") == [values]
    assert handle.parent.successful() and handle.parent.completed_count() == members


def test_a_chain_across_two_releases(flows: Flows) -> None:
    # Given a pool of an old release, which does not know the second task, on the first one's queue
    (flows.folder / "old_app.py").write_text(OTHER_RELEASE, encoding="utf-8")
    flows.pool("--queues", "flows", module="old_app", processes=1)
    handle = (flows.module.inc.s(1) | group(flows.module.total.si([5]), flows.module.total.si([6]))).delay()
    # When a pool of the new release works off the second one's queue
    flows.pool("--queues", "sums", processes=1)
    # Then the chain goes through both
    assert handle.get(20) == [5, 6]


def test_kills_at_random_call_a_chord_back_once_and_resume_chains(flows: Flows) -> None:
    # Given two pools, and chords and chains for them
    at, chance = flows.module, random.Random(4)
    sizes = (1, 30, 70)
    handles = [chord([at.member.s(n) for n in range(size)], at.total.s())() for size in sizes]
    chains = [chain(at.step.s([], 0), *(at.step.s(number) for number in range(1, 8))).delay() for _ in range(6)]
    pools = [flows.pool(concurrency=3), flows.pool(concurrency=3)]
    # When something dies each time that so much has run: a worker process, or a whole pool
    for kills in range(1, 7):
        eventually(lambda kills=kills: len(flows.noted()) > 15 * kills, 20)
        index = chance.randrange(len(pools))
        if kills % 3 == 0:
            pools[index].send(signal.SIGKILL, group=True)
            pools[index].wait(10)
            pools[index] = flows.pool(concurrency=3)
        else:
            for pid in worker_processes(pools[index])[:1]:
                kill(pid, signal.SIGKILL)
    # Then every callback got the right list
    assert [handle.get(40) for handle in handles] == [sum(range(size)) for size in sizes]
    called = flows.noted("total")
    assert {len(values) for values in called} == set(sizes)
    assert all(values == list(range(len(values))) for values in called)
    # ... and every step its right input, however often it ran
    assert all(one.get(20) == list(range(8)) for one in chains)
    for number in range(8):
        runs = flows.noted("step", number)
        assert len(runs) >= 6 and all(history == list(range(number)) for history in runs)
