"""Fixtures of all tests: a clean environment, real servers, started processes that are gone at the end."""

from __future__ import annotations

import compileall
import importlib.util
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import disks
import pytest
import redis
from cli_server import CommandServer
from disks import FaultyDisk, SmallDisk
from helpers import OwnServer, Started, taskstream_command
from hypothesis import HealthCheck, settings

from taskstream.embedded import EmbeddedBroker

# No test judges time: how long an example takes says only how busy the machine is.
settings.register_profile("taskstream", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("taskstream")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the packages under test, as an installation does: where PYTHONDONTWRITEBYTECODE is set, each of the
    hundreds of processes that tests start would compile a hundred modules (0.3 s of CPU)."""
    if hasattr(session.config, "workerinput"):
        return  # the process that started this one has done it
    for package in ("taskstream", "taskstream_worker", "taskstream_webapp"):
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        compileall.compile_dir(Path(spec.origin).parent, quiet=2)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests must not reach them."""
    for name in list(os.environ):
        if name.startswith(("TASKSTREAM_", "FLASK_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey server for all tests; take ``broker_url`` to find it empty."""
    broker = EmbeddedBroker(tmp_path_factory.mktemp("valkey"))
    broker.start()
    yield broker.url
    broker.stop()


@pytest.fixture
def broker_url(valkey_url: str) -> Iterator[str]:
    """The URL of a real server without any keys."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
        client.script_flush()
        yield valkey_url
        client.flushall()


@pytest.fixture
def redis_client(broker_url: str) -> Iterator[redis.Redis]:
    """A client of ``broker_url``; replies are bytes."""
    with redis.Redis.from_url(broker_url) as client:
        yield client


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[OwnServer]:
    """A real server of this test only: ``url``, ``pid``, ``stop()``, ``start()``, ``kill()``."""
    folder = tmp_path / "own-valkey"
    folder.mkdir()
    server = OwnServer(folder)
    yield server
    server.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 4 MiB, where one may be mounted."""
    with disks.small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(scope="session")
def disk_shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a disk fail; take ``faulty_disk`` for a folder on such a disk."""
    return disks.compiled_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def faulty_disk(tmp_path: Path, disk_shim: Path) -> FaultyDisk:
    """A folder (not made yet) whose disk fails when told to, for processes started with ``faulty_disk.env``."""
    return FaultyDisk(tmp_path / "results", disk_shim, tmp_path / "disk-control", tmp_path / "disk-log")


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """``start_process([program, …], cwd=…, env={…})``: a process that is gone, with its family, at the end."""
    started: list[Started] = []

    def start(arguments: list[str], *, cwd: Path = tmp_path, env: Mapping[str, str] | None = None) -> Started:
        output = tmp_path / f"process-{len(started)}.log"
        process = Started(arguments, cwd=cwd, env={**os.environ, **(env or {})}, output=output)
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.remove()


@pytest.fixture
def start_cli(start_process: Callable[..., Started]) -> Callable[..., Started]:
    """``start_cli("worker", "-A", …, cwd=…, env=…)``: the real command line in the background."""

    def start(*arguments: str, **settings: object) -> Started:
        return start_process(taskstream_command(*arguments), **settings)

    return start


@pytest.fixture(scope="session")
def command_server() -> Iterator[CommandServer]:
    """What runs the command lines of ``run_cli``."""
    server = CommandServer()
    yield server
    server.close()


@pytest.fixture
def run_cli(tmp_path: Path, command_server: CommandServer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``run_cli("queues", "--json", cwd=…, env=…)``: run the command line in a process to its end, output captured."""
    count = itertools.count()

    def run(
        *arguments: str, cwd: Path = tmp_path, env: Mapping[str, str] | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        outputs = tmp_path / f"command-{next(count)}"
        outputs.mkdir()
        return command_server.run(arguments, cwd, {**os.environ, **(env or {})}, outputs, timeout)

    return run


def _immortal_keys(client: redis.Redis) -> list[str]:
    """Keys that are neither work itself nor bounded by a time to live.

    Work and what operators chose may stay: streams (their data and groups), delayed messages, those that wait for
    their turn, dead letters, leases and the registry, which are emptied by what they count.
    """
    work = (
        "delayed",
        "ranked",
        "dead",
        "letters",
        "deaths",
        "leases",
        "control",
        "order",
        "ordered",
        "parked",
        "parking",
        "ticks",
    )
    found = []
    for key in client.scan_iter(count=1000):
        name = key.decode(errors="replace")
        if name in ("ts:subscriptions", "ts:workers") or client.type(key) == b"stream":
            continue
        if name.startswith("ts:{") and name.partition("}:")[2].partition(":")[0] in work:
            continue
        if client.ttl(key) == -1:
            found.append(name)
    return sorted(found)


@pytest.fixture(autouse=True)
def _no_immortal_keys(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a key which nothing would ever remove (marker ``leaves_keys(reason)`` allows it)."""
    if "broker_url" not in request.fixturenames:
        yield
        return
    url = request.getfixturevalue("broker_url")
    yield
    if request.node.get_closest_marker("leaves_keys") is None:
        with redis.Redis.from_url(url) as client:
            left = _immortal_keys(client)
        assert not left, f"keys without a time to live were left behind: {left}"
