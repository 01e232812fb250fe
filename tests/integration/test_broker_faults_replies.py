"""A server that answers, but with "not now": loading, busy, full, read-only, locked, crowded. Real ones, told to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis
from helpers import OwnServer, Started, eventually, free_port
from jobs import Jobs

from taskstream.broker import Broker
from taskstream.embedded import _binary
from taskstream.errors import BrokerUnavailable, ConfigError, TaskstreamError
from taskstream.message import Message

PASSWORD = "let-me-in"
LASTS_S = 1.2 if os.environ.get("TASKSTREAM_LONG_TESTS") == "1" else 0.4
"""How long each fault lasts; the longer one is more than a lease."""


@pytest.fixture
def jobs(tmp_path: Path, own_valkey: OwnServer, start_cli: Callable[..., Started]) -> Iterator[Jobs]:
    """The app at a server of its own, without a pool."""
    jobs = Jobs(tmp_path, own_valkey.url, start_cli)
    yield jobs
    jobs.broker.close()


class Operator:
    """Whoever has a connection already, and does things to the server."""

    def __init__(self, server: OwnServer) -> None:
        self.server = server
        self.client = redis.Redis.from_url(server.url, single_connection_client=True)

    def do(self, *command: object) -> None:
        self.client.execute_command(*command)  # type: ignore[arg-type]

    def kick_all(self) -> None:
        for kind in ("normal", "pubsub"):
            self.do("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


@contextmanager
def readonly(operator: Operator) -> Iterator[None]:
    """A master that was made a replica, and dropped nobody's connection."""
    operator.do("REPLICAOF", "127.0.0.1", free_port())
    yield
    operator.do("REPLICAOF", "NO", "ONE")


@contextmanager
def without_replicas(operator: Operator) -> Iterator[None]:
    operator.do("CONFIG", "SET", "min-replicas-to-write", 1)
    yield
    operator.do("CONFIG", "SET", "min-replicas-to-write", 0)


@contextmanager
def cannot_save(operator: Operator) -> Iterator[None]:
    """A snapshot failed, and the server is told to take no writes then."""
    snapshot = operator.server.folder / ".taskstream" / "dump.rdb"
    snapshot.mkdir()
    operator.do("CONFIG", "SET", "save", "3600 1000000")
    operator.do("BGSAVE")
    eventually(lambda: operator.client.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    operator.do("CONFIG", "SET", "save", "")
    snapshot.rmdir()


@contextmanager
def full(operator: Operator) -> Iterator[None]:
    operator.do("CONFIG", "SET", "maxmemory", 1)
    yield
    operator.do("CONFIG", "SET", "maxmemory", 0)


@contextmanager
def busy(operator: Operator) -> Iterator[None]:
    """Somebody's script does not end."""
    operator.do("CONFIG", "SET", "busy-reply-threshold", 50)

    def run() -> None:
        with redis.Redis.from_url(operator.server.url) as client, contextlib.suppress(redis.RedisError):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=run)
    thread.start()

    def noticed() -> bool:
        try:
            return not operator.client.ping()
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")

    eventually(noticed)
    yield
    operator.do("SCRIPT", "KILL")
    thread.join()


@contextmanager
def locked(operator: Operator) -> Iterator[None]:
    """The password was changed, and everybody has to show it."""
    operator.do("CONFIG", "SET", "requirepass", PASSWORD)
    operator.kick_all()
    yield
    operator.do("CONFIG", "SET", "requirepass", "")


@contextmanager
def forbidden(operator: Operator) -> Iterator[None]:
    operator.do("ACL", "SETUSER", "default", "-xadd", "-xreadgroup", "-evalsha", "-eval")
    yield
    operator.do("ACL", "SETUSER", "default", "+@all")


@contextmanager
def crowded(operator: Operator) -> Iterator[None]:
    operator.do("CONFIG", "SET", "maxclients", 1)
    operator.kick_all()
    yield
    operator.do("CONFIG", "SET", "maxclients", 10_000)


@contextmanager
def paused(operator: Operator) -> Iterator[None]:
    """CLIENT PAUSE: nothing is answered for a while."""
    operator.do("CLIENT", "PAUSE", 1500)
    yield


FAULTS: dict[Callable[[Operator], contextlib.AbstractContextManager[None]], tuple[type[TaskstreamError], str] | None]
FAULTS = {
    readonly: (BrokerUnavailable, "READONLY"),
    without_replicas: (BrokerUnavailable, "NOREPLICAS"),
    cannot_save: (BrokerUnavailable, "MISCONF"),
    full: (BrokerUnavailable, "OOM"),
    busy: (BrokerUnavailable, "BUSY"),
    locked: (ConfigError, "NOAUTH"),
    forbidden: (ConfigError, "NOPERM"),
    crowded: (BrokerUnavailable, "max number of clients"),
    paused: None,
}


def test_whatever_a_server_answers_nothing_is_lost_or_run_twice(jobs: Jobs, own_valkey: OwnServer) -> None:
    pool = jobs.pool(processes=2)
    jobs.running(2)
    operator = Operator(own_valkey)
    running = {key: jobs.send("slow", key) for key in "ab"}
    eventually(lambda: all(jobs.runs("start", key) for key in running))
    adds: list[str] = []
    flaky: list[str] = []
    for number, (fault, wanted) in enumerate(FAULTS.items()):
        # Given messages of every kind when it begins
        ends = jobs.send("slow", f"ends{number}")
        eventually(lambda number=number: jobs.runs("start", f"ends{number}"))  # type: ignore[misc]
        adds += [jobs.send("add", 10 * number + n, 0) for n in range(10)]
        flaky.append(jobs.send("flaky", str(number)))
        with fault(operator):
            # When something ends meanwhile
            jobs.go(f"ends{number}")
            began = time.monotonic()
            if wanted is not None:
                kind, word = wanted
                if fault in (locked, crowded):
                    jobs.broker.close()  # the connection was ended: what was sent over it would be in doubt
                with pytest.raises(kind, match=word) as caught:
                    jobs.send("add", -1, 0)
                # An error reply says that nothing was sent
                assert not getattr(caught.value, "maybe_sent", False), fault.__name__
                eventually(lambda began=began: time.monotonic() - began > LASTS_S)  # type: ignore[misc]
        # Then workers go on without a restart
        adds.append(jobs.send("add", 10_000 + number, 0))
        assert jobs.outcome(adds[-1]).delivery == 1, fault.__name__
        assert jobs.outcome(ends).delivery == 1, fault.__name__
    jobs.go(*running)
    assert [jobs.outcome(one).delivery for one in (*running.values(), *adds)] == [1] * (2 + len(adds))
    assert [jobs.outcome(one).delivery for one in flaky] == [2] * len(flaky)
    jobs.settled()
    found = Counter(tuple(line.split(" ")[:2]) for line in (jobs.folder / "runs").read_text().splitlines())
    assert found.pop(("add", "-1"), 0) == 0
    assert {key for key, times in found.items() if times != (2 if key[0] == "flaky" else 1)} == set()
    jobs.running(2)
    eventually(lambda: jobs.state.consumers == 2)
    assert "Took over" not in pool.output
    said = [line for line in pool.output.splitlines() if "| WARNING" in line or "| ERROR" in line]
    assert len([line for line in said if "FAILED, will" not in line]) <= 8 * len(FAULTS), pool.output
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
    assert jobs.state.consumers == 0
    operator.client.close()


def test_a_full_server_takes_retries_and_dead_letters_and_what_is_given_back(jobs: Jobs, own_valkey: OwnServer) -> None:
    pool = jobs.pool("--grace", "0.2", concurrency=4)
    jobs.running()
    (jobs.folder / "hold").touch()
    slow = [jobs.send("slow", key) for key in "ab"]
    eventually(lambda: jobs.runs("start", "b"))
    operator = Operator(own_valkey)
    retried, dead = jobs.send("late_failure", "x"), jobs.send("broken", "y")
    eventually(lambda: jobs.state.dead == 1)
    with full(operator):
        eventually(lambda: jobs.runs("late_failure", "x"))
        (jobs.folder / "hold").unlink()
        # A retry, then a dead letter
        assert jobs.outcome(retried).attempts == 2
        eventually(lambda: set(jobs.letters()) == {retried.encode(), dead.encode()})
        # What runs is interrupted and given back
        pool.send(signal.SIGTERM)
        assert pool.wait() == 1
        assert jobs.state.waiting == 2 and jobs.state.consumers == 0
        jobs.go("a", "b")
        jobs.pool()
        assert [jobs.outcome(one).state for one in slow] == ["SUCCESS"] * 2
    jobs.settled(dead=2)
    operator.client.close()


def test_a_server_that_loads_its_data(tmp_path: Path, start_cli: Callable[..., Started]) -> None:
    port = free_port()
    folder = tmp_path / "loading"
    folder.mkdir()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--appendonly", "yes", "--appendfsync", "always"]
    slowly = ["--key-load-delay", "100", "--loading-process-events-interval-bytes", "1024"]
    with ExitStack() as stack:

        def start(*more: str) -> subprocess.Popen[bytes]:
            command = [str(_binary()), *options, *more, "--save", "", "--dir", str(folder)]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        server = start()
        jobs = Jobs(tmp_path, f"redis://127.0.0.1:{port}/0", start_cli)
        stack.callback(jobs.broker.close)

        def sent(*call: object) -> str:
            try:
                return jobs.send(*call)  # type: ignore[arg-type]
            except BrokerUnavailable:
                return ""

        eventually(lambda: sent("add", 0, 0))
        pool = jobs.pool(processes=2)
        jobs.running(2)
        ids = [jobs.send("slow", key) for key in "abc"]
        eventually(lambda: all(jobs.runs("start", key) for key in "abc"))
        with redis.Redis(port=port) as client, client.pipeline(transaction=False) as pipeline:
            for number in range(16_384):  # a loading server looks up every 1,024
                pipeline.set(f"other{number}", number, ex=60)
            pipeline.execute()
        # When it is killed and takes longer than a lease to load
        server.kill()
        server.wait()
        jobs.go("a")
        start(*slowly)

        def refused() -> str:
            try:
                jobs.broker.ping()
            except BrokerUnavailable as error:
                return str(error) if "LOADING" in str(error) and not error.maybe_sent else ""
            return ""

        eventually(refused, 20)
        jobs.go("b", "c")
        # Then nothing has happened but that time went by
        assert [jobs.outcome(one, 30).delivery for one in ids] == [1] * 3
        assert jobs.outcome(eventually(lambda: sent("add", 1, 0), 20)).delivery == 1
        jobs.settled()
        assert all(len(jobs.runs("start", key)) == 1 for key in "abc")
        assert "Took over" not in pool.output
        pool.send(signal.SIGTERM)
        assert pool.wait() == 0


def test_a_producer_leaves_a_server_that_is_no_master(own_valkey: OwnServer) -> None:
    broker = Broker(own_valkey.url)
    broker.publish("s", Message("one", "n", b"{}"))
    operator = Operator(own_valkey)
    with readonly(operator):
        with pytest.raises(BrokerUnavailable, match="READONLY"):
            broker.publish("s", Message("two", "n", b"{}"))
        # The connection is given up: the name, or the Sentinel, may lead to another server by now
        eventually(
            lambda: b"name= " not in b"".join(operator.client.execute_command("CLIENT", "LIST").split(b"id=")[2:])
        )
    broker.publish("s", Message("three", "n", b"{}"))
    assert broker.stream_length("s") == 2
    broker.close()
    operator.client.close()
