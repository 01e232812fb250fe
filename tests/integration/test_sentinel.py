"""A broker behind Sentinel: found by the service's name, and found again after a failover."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from helpers import Started, eventually, free_port
from jobs import Jobs

from taskstream.broker import Broker
from taskstream.embedded import _binary
from taskstream.errors import BrokerUnavailable, ConfigError
from taskstream.link import Link
from taskstream.message import Message

PASSWORD = "let-me-in"


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, int]]]:
    """URL of a service, and the ports of ``sentinel`` and of two servers, the first of which is the master."""
    ports = {name: free_port() for name in ("one", "two", "sentinel")}
    common = f'bind 127.0.0.1\nsave ""\nrequirepass {PASSWORD}\nmasterauth {PASSWORD}\nrepl-diskless-sync-delay 0\n'
    settings = {
        "one": common,
        "two": f"{common}replicaof 127.0.0.1 {ports['one']}\n",
        "sentinel": f"bind 127.0.0.1\nsentinel monitor main 127.0.0.1 {ports['one']} 1\n"
        f"sentinel auth-pass main {PASSWORD}\nsentinel down-after-milliseconds main 500\n",
    }
    with ExitStack() as stack:
        for name, port in ports.items():
            folder = tmp_path_factory.mktemp(name)
            (folder / "conf").write_text(f"port {port}\ndir {folder}\n{settings[name]}")
            mode = ["--sentinel"] if name == "sentinel" else []
            process = subprocess.Popen([str(_binary()), "conf", *mode], cwd=folder, stdout=subprocess.DEVNULL)
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            eventually(lambda port=port, name=name: ready(port, name))  # type: ignore[misc]
        eventually(lambda: replicas(ports["sentinel"]) == 1, 20)
        yield f"sentinel://:{PASSWORD}@127.0.0.1:{ports['sentinel']}/main/0", ports


def ready(port: int, name: str) -> bool:
    """Whether it answers; the second server: whether it has copied the first."""
    with redis.Redis(port=port, password=None if name == "sentinel" else PASSWORD) as client:
        try:
            return bool(client.ping()) and (name != "two" or client.info("replication")["master_link_status"] == "up")
        except (redis.ConnectionError, KeyError):
            return False


def replicas(port: int) -> int:
    """Replicas the sentinel could use for a failover."""
    with redis.Redis(port=port, decode_responses=True) as client:
        found = client.execute_command("SENTINEL", "REPLICAS", "main")
        return sum(one["flags"] == "slave" and one["master-link-status"] == "ok" for one in found)


def test_producers_and_workers_follow_a_failover(
    sentinel: tuple[str, dict[str, int]], tmp_path: Path, start_cli: Callable[..., Started]
) -> None:
    url, ports = sentinel
    jobs = Jobs(tmp_path, url, start_cli)
    pools = [jobs.pool("-n", name) for name in ("a", "b")]
    jobs.running(2)
    assert jobs.outcome(jobs.send("add", 1, 1)).state == "SUCCESS"
    jobs.settled()
    # Given messages that run, wait for room and for their next try, all of them known to the replica
    running = [jobs.send("slow", f"s{number}") for number in range(20)]
    eventually(lambda: all(jobs.runs("start", f"s{number}") for number in range(20)))
    waiting = [jobs.send("add", number, 5) for number in range(10)]
    with redis.Redis(port=ports["one"], password=PASSWORD) as client:
        assert client.wait(1, 5000) == 1
    link = Link(url)
    assert link.call("CONFIG", "GET", "port")[1] == str(ports["one"]).encode()
    # When the master dies, and Sentinel makes the other one the master
    os.kill(int(link.call("INFO", "server").split(b"process_id:")[1].split()[0]), signal.SIGKILL)

    def moved() -> bool:
        try:
            return bool(link.call("CONFIG", "GET", "port")[1] == str(ports["two"]).encode())
        except redis.RedisError:
            return False
        finally:
            link.close()

    eventually(moved, 30)

    # Then calls are accepted there, and run

    def sent() -> str:
        try:
            return jobs.send("add", 2, 2)
        except BrokerUnavailable:
            return ""

    one = eventually(sent, 30)
    jobs.go(*(f"s{number}" for number in range(20)))
    assert jobs.outcome(one, 30).state == "SUCCESS"
    assert len(jobs.runs("add", "2", "2")) == 1
    # And what was under way is finished by those who had it, once
    assert [(found.state, found.delivery) for found in map(jobs.outcome, running + waiting)] == [("SUCCESS", 1)] * 30
    jobs.settled()
    assert all(len(jobs.runs("start", f"s{number}")) == 1 for number in range(20))
    assert all(len(jobs.runs("add", str(number), "5")) == 1 for number in range(10))
    assert all("Took over" not in pool.output for pool in pools)
    for pool in pools:
        pool.send(signal.SIGTERM)
        assert pool.wait() == 0
    assert jobs.state.consumers == 0
    jobs.broker.close()
    link.close()


def test_a_service_that_sentinel_does_not_know_is_told_in_a_line(sentinel: tuple[str, dict[str, int]]) -> None:
    url, _ = sentinel
    broker = Broker(url.replace("/main/", "/nothing/"))
    with pytest.raises((BrokerUnavailable, ConfigError)) as caught:
        broker.publish("s", Message("m", "n", b"{}"))
    text = str(caught.value)
    assert "nothing" in text and PASSWORD not in text and "\n" not in text
    assert len(text) < 300
