"""A network that is slow, silent or cut, for one worker or for all: real pools behind a proxy that breaks it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers import Started, eventually
from jobs import Jobs, worker_processes
from proxy import FaultyProxy

from taskstream.broker import Broker
from taskstream.broker.group import ConsumerGroup
from taskstream.broker.script import Script
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message

LONG = os.environ.get("TASKSTREAM_LONG_TESTS") == "1"


@pytest.fixture
def proxy(broker_url: str) -> Iterator[FaultyProxy]:
    """Between a pool and the server."""
    proxy = FaultyProxy(broker_url)
    yield proxy
    proxy.close()


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Iterator[Jobs]:
    """The app, directly at the server, without a pool."""
    jobs = Jobs(tmp_path, broker_url, start_cli)
    yield jobs
    jobs.broker.close()


def behind(jobs: Jobs, proxy: FaultyProxy, *options: str, **numbers: float) -> Started:
    """A pool whose way to the server leads through the proxy."""
    direct, jobs.url = jobs.url, proxy.url
    try:
        return jobs.pool(*options, **numbers)  # type: ignore[arg-type]
    finally:
        jobs.url = direct


def starts(jobs: Jobs) -> Counter[str]:
    """How often each call has started, by task and first argument."""
    lines = (jobs.folder / "runs").read_text(encoding="utf-8").splitlines()
    return Counter(" ".join(line.split(" ")[:2]) for line in lines)


def all_once(jobs: Jobs, ids: list[str], numbers: range) -> None:
    """Every ``add`` of ``numbers`` is done, and has run once."""
    assert [jobs.outcome(one).delivery for one in ids] == [1] * len(ids)
    jobs.settled()
    found = starts(jobs)
    assert [number for number in numbers if found[f"add {number}"] != 1] == []


def stops_clean(jobs: Jobs, *pools: Started) -> None:
    """The pools end, and leave neither a consumer nor a lease."""
    for pool in pools:
        pool.send(signal.SIGTERM)
    for pool in pools:
        assert pool.wait() == 0, pool.output
    assert jobs.state.consumers == 0
    assert not jobs.broker.client.exists(f"ts:{{jobs}}:leases:{QUEUE_GROUP}")


def test_a_slow_network_costs_latency_but_no_lease(jobs: Jobs, proxy: FaultyProxy) -> None:
    pool = behind(jobs, proxy, lease=3, concurrency=100)
    jobs.running()
    long = jobs.send("slow", "long")
    eventually(lambda: jobs.runs("start", "long"))
    proxy.delay(0.15)
    started = time.monotonic()
    ids = [jobs.send("add", number, 0) for number in range(300)]
    assert [jobs.outcome(one).delivery for one in ids] == [1] * len(ids)
    # One by one they would take at least 300 round trips of 0.3 s
    assert time.monotonic() - started < 45
    eventually(lambda: time.monotonic() - started > 4)
    jobs.go("long")
    assert jobs.outcome(long).delivery == 1
    all_once(jobs, ids, range(300))
    assert "Lease lost" not in pool.output
    stops_clean(jobs, pool)
    assert "Could not" not in pool.output


@pytest.mark.parametrize("way_back", ["stalled", "forgotten"])
def test_a_host_cut_off_for_longer_than_a_lease(jobs: Jobs, proxy: FaultyProxy, way_back: str) -> None:
    # Given one host behind the proxy that runs everything, and another one
    cut_off = behind(jobs, proxy, "-n", "cut-off", concurrency=5)
    jobs.running(1)
    ids = {key: jobs.send("slow", key) for key in "abc"}
    eventually(lambda: all(jobs.runs("start", key) for key in ids))
    other = jobs.pool("-n", "other")
    jobs.running(2)
    # When nothing passes between the first one and the server
    proxy.drop()
    if way_back == "forgotten":
        proxy.half_open()
    eventually(lambda: all(len(jobs.runs("start", key)) == 2 for key in ids), 20)
    # Then the other takes its messages over, and both finish
    jobs.go(*ids)
    assert [jobs.outcome(one).delivery for one in ids.values()] == [2] * 3
    eventually(lambda: all(len(jobs.runs("end", key)) == 2 for key in ids))
    jobs.settled()
    winners = [jobs.outcome(one).worker for one in ids.values()]
    # And when the first one comes back it commits nothing of that, and goes on under another name
    fresh = [jobs.send("slow", f"fresh{number}") for number in range(12)]
    proxy.heal()
    eventually(lambda: len({pid for n in range(12) for pid in jobs.runs("start", f"fresh{n}")}) == 2, 15)
    jobs.go(*(f"fresh{number}" for number in range(12)))
    assert [jobs.outcome(one).state for one in fresh] == ["SUCCESS"] * 12
    assert [jobs.outcome(one).worker for one in ids.values()] == winners
    assert [jobs.outcome(one).delivery for one in ids.values()] == [2] * 3
    jobs.settled()
    eventually(lambda: jobs.state.consumers == 2)
    assert all(len(jobs.runs("start", f"fresh{number}")) == 1 for number in range(12))
    assert "Lease lost" in cut_off.output
    if way_back == "stalled":
        stops_clean(jobs, cut_off, other)


def test_replies_that_come_late_or_never(jobs: Jobs, proxy: FaultyProxy) -> None:
    pool = behind(jobs, proxy, lease=60)
    jobs.running()
    ids = []
    for number in range(4):
        # Requests arrive, replies do not; then they come late, or never
        proxy.drop(requests=False)
        ids += [jobs.send("add", 10 * number + n, 0) for n in range(10)]
        time.sleep(0.3)
        if number % 2:
            proxy.cut()
        proxy.heal()
    all_once(jobs, ids, range(40))
    stops_clean(jobs, pool)


@pytest.mark.parametrize("way", ["lose_reply_to", "cut_after_request", "cut_inside_request"])
def test_a_name_whose_registration_was_not_answered_is_given_up(jobs: Jobs, proxy: FaultyProxy, way: str) -> None:
    # Given a server that knows the scripts, so that the first command is carried out
    group = ConsumerGroup("jobs", QUEUE_GROUP, "earlier", 60_000)
    assert group.register(jobs.broker.call)
    group.release(jobs.broker.call)
    # When a worker's first registration gets no answer
    getattr(proxy, way)(Script("register").sha.encode())
    pool = behind(jobs, proxy, lease=60)
    assert jobs.outcome(jobs.send("add", 1, 0)).delivery == 1
    assert proxy.lost == 1
    # Then it goes on under another name, and the first is not left behind for as long as its lease
    assert jobs.state.consumers == 1
    # And where nobody answers its signing off, its supervisor does that once more
    getattr(proxy, way)(Script("release").sha.encode())
    stops_clean(jobs, pool)
    assert proxy.lost == 2


COMMANDS = {
    **{name: Script(name).sha.encode() for name in ("commit", "renew", "sweep", "promote")},
    "read": b"XREADGROUP",
    "compare": b"XPENDING",
    "announce": b"ts:worker",
}


def test_every_command_of_a_worker_may_be_cut(jobs: Jobs, proxy: FaultyProxy) -> None:
    pool = behind(jobs, proxy, lease=2)
    jobs.running()
    ids: dict[str, str] = {}
    ways = (proxy.cut_after_request, proxy.cut_inside_request, proxy.lose_reply_to)
    for way in ways:
        for word, command in COMMANDS.items():
            way(command)
            key = f"{way.__name__}-{word}"
            ids[key] = jobs.send("flaky", key)
            eventually(lambda key=key: jobs.runs("flaky", key))  # type: ignore[misc]
    # Each ran twice, because it fails the first time, and no more
    outcomes = {key: jobs.outcome(one) for key, one in ids.items()}
    assert {key: one.delivery for key, one in outcomes.items()} == dict.fromkeys(ids, 2)
    jobs.settled()
    assert starts(jobs) == Counter({f"flaky {key}": 2 for key in ids})
    eventually(lambda: proxy.lost == len(ids), 20)
    stops_clean(jobs, pool)


STAGES = {
    "config.json": """{"app": {"name": "stages", "version": "1.0"}, "events": {
        "first": {"type": "STREAM", "read_stream": {"name": "one", "consumer_group": "g"},
                  "write_stream": {"name": "two"}},
        "second": {"type": "STREAM", "read_stream": {"name": "two", "consumer_group": "g"}}}}""",
    "server.json": '{"streams": {"connection_str": "%s"}, "results": {"url": "null"}}',
    "stages/__init__.py": "",
    "stages/model.py": "from taskstream.dataobjects import dataobject\n\n@dataobject\nclass Thing:\n    key: str\n",
    "stages/first.py": "from .model import Thing\n__steps__ = ['run']\ndef run(thing: Thing, context) -> Thing:\n"
    "    return thing\n",
    "stages/second.py": "from .model import Thing\n__steps__ = ['run']\ndef run(thing: Thing, context) -> None:\n"
    "    with open('second', 'a') as file:\n        file.write(thing.key + '\\n')\n",
}


def test_what_a_message_publishes_is_published_once(
    tmp_path: Path, broker_url: str, proxy: FaultyProxy, start_cli: Callable[..., Started]
) -> None:
    for name, text in STAGES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text.replace("%s", proxy.url))
    start_cli("worker", "--processes", "1", "--lease", "60", cwd=tmp_path)
    broker = Broker(broker_url)
    eventually(lambda: broker.group_states("one"), 20)
    publish = Script("publish").sha.encode()
    sent = []
    # When the reply to the second stage's message is lost, or the connection cut before, in or after it
    for number, way in enumerate((proxy.lose_reply_to, proxy.cut_after_request, proxy.cut_inside_request)):
        way(publish)
        for n in range(5):
            sent.append(f"{number}-{n}")
            message = Message(sent[-1], "stages.model.Thing", b'{"key":"%s"}' % sent[-1].encode())
            broker.publish("one", message)
        eventually(lambda number=number: proxy.lost == number + 1)  # type: ignore[misc]

    def seen() -> list[str]:
        return sorted((tmp_path / "second").read_text().split())

    # Then each is there once
    eventually(lambda: len(seen()) >= len(sent), 20)
    eventually(lambda: broker.stream_length("one") == broker.stream_length("two") == 0)
    assert seen() == sorted(sent)
    broker.close()


def test_a_hundred_cuts_leak_nothing(jobs: Jobs, proxy: FaultyProxy) -> None:
    pool = behind(jobs, proxy, "-l", "WARNING", lease=6)
    jobs.running()
    (pid,) = worker_processes(pool)
    process = psutil.Process(pid)

    def sizes() -> tuple[int, int, int]:
        return process.num_fds(), proxy.connections, process.memory_info().rss >> 20

    numbers = range(200 if LONG else 40)
    ids = []
    before = (0, 0, 0)
    for number in numbers:
        if number % 4 == 3:
            jobs.broker.client.client_kill_filter(_type="normal", skipme=True)
            jobs.broker.close()  # it was hit too
        else:
            proxy.cut()
        ids.append(jobs.send("add", number, 0))
        eventually(lambda number=number: jobs.runs("add", str(number), "0"))  # type: ignore[misc]
        if number == 9:
            jobs.settled()
            before = sizes()
    all_once(jobs, ids, numbers)
    print("descriptors, connections, MB:", before, sizes())
    eventually(lambda: sizes()[0] <= before[0] + 3 and sizes()[1] <= before[1] + 2)
    assert sizes()[2] <= before[2] + 8
    assert len(pool.output.splitlines()) < 4 * len(numbers), pool.output
    stops_clean(jobs, pool)
