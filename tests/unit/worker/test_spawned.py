"""What a supervisor makes of its children: reports of any kind, failing starts, orders of any length."""

from __future__ import annotations

import builtins
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import msgspec
import psutil
import pytest

from taskstream import logs
from taskstream_worker import memory, pipes, spawned
from taskstream_worker.options import PoolOptions, Target
from taskstream_worker.orders import Report
from taskstream_worker.spawned import MAX_REPORT, Child, how_it_ended, is_running
from taskstream_worker.told import Lease


@pytest.fixture
def child() -> Iterator[Child]:
    """One that was never started."""
    child = Child(1, "w.1", logs.engine_logger("supervisor"))
    yield child
    child.forget()


@pytest.fixture
def pipe(child: Child) -> Iterator[int]:
    """Where it reports."""
    child.reports_fd, write = os.pipe()
    os.set_blocking(child.reports_fd, False)
    yield write
    os.close(write)


def line(**fields: Any) -> bytes:
    return msgspec.json.encode(Report(**fields)) + b"\n"


def test_reports(child: Child, pipe: int) -> None:
    begin = line(kind="begin", number=3, stream="s", group="g", consumer="c", url="redis://x")
    os.write(pipe, begin[:10])
    child.read_reports(1000)
    assert child.leases == {}
    os.write(pipe, begin[10:] + line(kind="worn", text="has run 5 messages") + line(kind="ready"))
    child.read_reports(1000)
    (lease,) = child.leases.values()
    assert lease == Lease("redis://x", "s", "g", "c", 1000)
    assert child.ready and child.worn == "has run 5 messages"
    os.write(pipe, line(kind="end", number=3) + line(kind="config_error", text="broken"))
    child.read_reports(1000)
    assert (child.leases, child.config_error) == ({}, "broken")


def test_nonsense_on_the_pipe_hurts_nobody(child: Child, pipe: int) -> None:
    for nonsense in (b"hello\n", b"\xff\xfe\n", b"[]\n", b'{"kind": 5}\n', b"\n", b"{" * (MAX_REPORT - 100)):
        os.write(pipe, nonsense)
        child.read_reports(1000)
    os.write(pipe, b"x" * 200)
    child.read_reports(1000)
    os.write(pipe, b"the end of it\n" + line(kind="ready"))
    child.read_reports(1000)
    assert child.ready


def test_a_flood_of_nonsense_is_one_line_and_one_look_takes_a_part(
    child: Child, pipe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(child, "_log", type("Log", (), {"warning": lambda self, *what: told.append(what)})())
    for _ in range(3):
        os.write(pipe, b"\n" * 1000)
        child.read_reports(1000)
    assert len(told) == 1
    reads: list[int] = []
    monkeypatch.setattr(spawned.os, "read", lambda fd, size: reads.append(size) or b"\n")
    child.read_reports(1000)
    assert len(reads) == spawned.MOST_READS


def test_the_end_of_the_pipe_is_noticed(child: Child) -> None:
    child.reports_fd, write = os.pipe()
    os.set_blocking(child.reports_fd, False)
    child.read_reports(1000)
    assert child.deaf_since is None
    os.close(write)
    child.read_reports(1000)
    assert child.deaf_since is not None


def test_a_process_that_cannot_be_started_leaves_nothing(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(spawned.subprocess, "Popen", refuse)
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            child.start(PoolOptions(Target()))
    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(BlockingIOError):
        child.start(PoolOptions(Target()))
    assert len(os.listdir("/dev/fd")) == before
    assert child.process is None and not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT}


def test_an_order_longer_than_the_pipe_arrives_whole(child: Child) -> None:
    read, child._orders_fd = os.pipe()
    order = os.urandom(300_000).replace(b"\n", b" ") + b"\n"
    found = bytearray()

    def take() -> None:
        while not found.endswith(b"\n"):
            found.extend(os.read(read, 10_000))

    reader = threading.Thread(target=take)
    reader.start()
    child.order(order)
    reader.join(10)
    os.close(read)
    assert bytes(found) == order
    child.order(b"too late\n")  # nobody is there any more


def test_a_supervisor_that_does_not_read_holds_up_only_the_reporter() -> None:
    read, write = os.pipe()
    reports = [Report("begin", number=number, text="x" * 5_000) for number in range(30)]
    told = [gevent.spawn(pipes.send, write, report) for report in reports]
    gevent.sleep(0.05)
    assert not all(greenlet.ready() for greenlet in told)
    found = b""
    while len(found) < sum(len(msgspec.json.encode(report)) + 1 for report in reports):
        found += os.read(read, 65_536)
        gevent.sleep(0.01)
    gevent.joinall(told, timeout=5)
    assert [msgspec.json.decode(one, type=Report) for one in found.splitlines()] == reports
    os.close(read)
    pipes.send(write, reports[0])  # nobody is there any more
    os.close(write)


def test_how_a_process_ended() -> None:
    assert [how_it_ended(status) for status in (0, 7, -9, -11, -40)] == [
        "status 0",
        "status 7",
        "SIGKILL",
        "SIGSEGV",
        "signal 40",
    ]


def test_a_process_counts_as_running_unless_it_is_known_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert is_running(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        assert not is_running(process.pid)
        process.send_signal(signal.SIGCONT)
        process.kill()
    assert not is_running(process.pid)

    def no_descriptor_left(*args: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(builtins, "open", no_descriptor_left)
    assert is_running(1)


def test_how_much_memory_a_process_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    block = bytearray(os.urandom(64)) * 500_000
    told = psutil.Process().memory_info().rss
    assert len(block) < memory.resident(os.getpid()) and abs(memory.resident(os.getpid()) - told) < len(block)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        assert memory.resident(process.pid) == 0

    # On a system without /proc
    def no_file(*args: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(builtins, "open", no_file)
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    monkeypatch.setattr(psutil, "Process", lambda pid: SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=7)))
    assert memory.resident(1) == 7
