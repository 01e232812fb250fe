"""What several tests share beside fixtures: waiting for a condition, processes, servers of a test's own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from taskstream.embedded import EmbeddedBroker

ROOT = Path(__file__).parent.parent
T = TypeVar("T")


def eventually(condition: Callable[[], T], timeout: float = 10.0, message: str | Callable[[], str] = "") -> T:
    """Return ``condition()`` as soon as it is true; AssertionError after ``timeout`` seconds.

    An AssertionError or OSError inside the condition counts as "not yet". A callable ``message`` is asked only then.
    """
    deadline = time.monotonic() + timeout
    while True:
        problem: object = "condition is still false"
        try:
            found = condition()
            if found:
                return found
            problem = f"last value: {found!r}"
        except (AssertionError, OSError) as error:
            problem = error
        if time.monotonic() > deadline:
            said = message() if callable(message) else message
            raise AssertionError(f"{said or 'not true'} within {timeout} s ({problem})")
        time.sleep(0.02)


def free_port() -> int:
    """A port on loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def need(program: str | None, name: str) -> str:
    """``program`` (what shutil.which found); without one the test is skipped here and fails under CI."""
    if program is None:
        reason = f"{name} is not installed on this machine"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI has to have it")
        pytest.skip(reason)
    return program


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class OwnServer:
    """A real Valkey server of one test, on one port for its life, to be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = free_port()
        self._broker: EmbeddedBroker | None = None
        self.start()

    @property
    def url(self) -> str:
        """Stays the same over restarts."""
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        """The running server's process id."""
        assert self._broker is not None and self._broker.pid is not None
        return self._broker.pid

    def start(self) -> None:
        """Start it with the data it had; its append-only file is written before every reply."""
        if self._broker is None:
            broker = EmbeddedBroker(self.folder, appendfsync="always", port=self._port)
            broker.start()
            self._broker = broker

    def stop(self) -> None:
        """End it cleanly."""
        if self._broker is not None:
            self._broker.stop()
            self._broker = None

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._broker is not None:
            self._broker.kill()
            self._broker = None


class Started:
    """A process a test started, in a process group of its own, with its output in a file."""

    def __init__(self, arguments: Sequence[str], *, cwd: Path, env: dict[str, str], output: Path) -> None:
        self.output_path = output
        with output.open("wb") as sink:
            self.process = subprocess.Popen(
                arguments, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
            )
        self.pid = self.process.pid

    @property
    def output(self) -> str:
        """What it has printed on both outputs so far."""
        return self.output_path.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the process, or to its whole group as a terminal does with Ctrl-C."""
        if group:
            os.killpg(self.pid, number)
        else:
            os.kill(self.pid, number)

    def wait(self, timeout: float = 30.0) -> int:
        """Its exit status; AssertionError with its output where it does not end in time."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"pid {self.pid} still runs after {timeout} s; output:\n{self.output}") from None

    def family(self) -> list[psutil.Process]:
        """The process, its session's members and all descendants."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if os.getsid(process.pid) == self.pid:
                    found[process.pid] = process
                    found.update({child.pid: child for child in process.children(recursive=True)})
        return [process for process in found.values() if alive(process.pid)]

    def remove(self) -> None:
        """Kill whatever is left of it."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)


def taskstream_command(*arguments: str) -> list[str]:
    """The command line of ``taskstream`` with the Python that runs the tests."""
    code = "import sys; from taskstream.cli.main import main; sys.exit(main())"
    return [sys.executable, "-c", code, *arguments]
