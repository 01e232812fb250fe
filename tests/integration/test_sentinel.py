"""A broker behind Sentinel: found by the service's name, and found again after a failover."""

from __future__ import annotations

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
    jobs.pool()
    assert jobs.outcome(jobs.send("add", 1, 1)).state == "SUCCESS"
    jobs.settled()
    link = Link(url)
    assert link.call("CONFIG", "GET", "port")[1] == str(ports["one"]).encode()
    # When the other server becomes the master
    with redis.Redis(port=ports["sentinel"]) as client:
        client.execute_command("SENTINEL", "FAILOVER", "main")

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
    assert jobs.outcome(one, 30).state == "SUCCESS"
    assert len(jobs.runs("add", "2", "2")) == 1
    jobs.broker.close()


def test_a_service_that_sentinel_does_not_know_is_told_in_a_line(sentinel: tuple[str, dict[str, int]]) -> None:
    url, _ = sentinel
    broker = Broker(url.replace("/main/", "/nothing/"))
    with pytest.raises((BrokerUnavailable, ConfigError)) as caught:
        broker.publish("s", Message("m", "n", b"{}"))
    text = str(caught.value)
    assert "nothing" in text and PASSWORD not in text and "\n" not in text
    assert len(text) < 300
