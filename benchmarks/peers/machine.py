"""A server of our own, and the workers of one peer with what they use of the machine.

CPU and memory are read from /proc, for every process of the sessions that the workers' parents lead, whatever those
start; children that are gone count through the parent that reaped them. Linux only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import redis

from benchmarks.harness import server_cpu_s

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Server:
    """A redis-server without persistence on loopback, stopped by its process id."""

    def __init__(self, port: int, binary: str = "redis-server") -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis(port=port)
        self._binary = binary
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""

    def start(self) -> None:
        """Start it. Raises SystemExit where it does not answer, or where another server has the port."""
        if not shutil.which(self._binary):
            raise SystemExit(f"{self._binary} is not on PATH: install a Redis server, or name one with --server")
        self._folder = tempfile.mkdtemp(prefix="peers-server-")
        settings = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": self._folder}
        self._process = subprocess.Popen(
            [self._binary, *(word for name, value in settings.items() for word in (f"--{name}", value))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(200):
            with contextlib.suppress(redis.ConnectionError):
                if self.client.info("server")["process_id"] == self._process.pid:
                    return
                raise SystemExit(f"port {self.port} is served by somebody else: choose another one with --port")
            time.sleep(0.05)
        raise SystemExit(f"{self._binary} did not start")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def version(self) -> str:
        """Its name and version."""
        found = self.client.info("server")
        return f"{found.get('server_name', 'redis')} {found.get('valkey_version') or found['redis_version']}"

    def flush(self) -> None:
        """Forget everything."""
        self.client.flushall()

    def cpu_s(self) -> float:
        """CPU so far (s)."""
        return server_cpu_s(self.client)

    def used_memory(self) -> int:
        """Bytes."""
        return int(self.client.info("memory")["used_memory"])

    def commands(self) -> int:
        """Commands so far, those sent by scripts included."""
        return int(self.client.info("stats")["total_commands_processed"])


def members(sessions: set[int]) -> dict[int, tuple[int, int]]:
    """Process id → CPU (ticks, reaped children included) and resident pages, of every process of these sessions."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                text = Path("/proc", name, "stat").read_bytes()
                fields = text[text.rindex(b")") + 2 :].split()
                if int(fields[3]) in sessions and fields[0] != b"Z":
                    found[int(name)] = (sum(map(int, fields[11:15])), int(fields[21]))
    return found


class Usage:
    """What the processes of some sessions use."""

    def __init__(self, leaders: set[int]) -> None:
        self._leaders = leaders

    def leaders(self) -> set[int]:
        """The processes that lead the sessions."""
        return self._leaders

    def members(self) -> dict[int, tuple[int, int]]:
        """As the function ``members``, of all of them."""
        return members(self.leaders())

    def cpu_s(self) -> float:
        """CPU so far, of those that live (s)."""
        return sum(ticks for ticks, _ in self.members().values()) / TICKS_PER_S

    def rss(self) -> int:
        """Resident memory, shared pages counted each time (bytes)."""
        return sum(pages for _, pages in self.members().values()) * PAGE

    def pss(self, *pids: int) -> int:
        """Resident memory of all, or of ``pids``, each share of a page counted once (bytes)."""
        total = 0
        for pid in pids or self.members():
            with contextlib.suppress(OSError):
                for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        return total


class Workers(Usage):
    """The parents of one peer; each leads a session of its own."""

    def __init__(self, commands: Sequence[list[str]], environment: dict[str, str], folder: Path, log: Path) -> None:
        self._commands = commands
        self._environment = environment
        self._folder = folder
        self._log = log
        self._parents: dict[int, subprocess.Popen[bytes]] = {}
        self.peak_rss = 0
        self.peak_processes = 0
        self._stopped = threading.Event()
        for number in range(len(commands)):
            self.start_one(number)
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def start_one(self, number: int) -> None:
        """Start that parent (again)."""
        with self._log.open("ab") as log:
            self._parents[number] = subprocess.Popen(
                self._commands[number],
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def leaders(self) -> set[int]:
        """The parents, as they are now."""
        return {parent.pid for parent in self._parents.values()}

    def pids(self, number: int) -> set[int]:
        """The processes of one parent."""
        return set(members({self._parents[number].pid}))

    def _sample(self) -> None:
        while not self._stopped.wait(0.2):
            found = self.members()
            self.peak_rss = max(self.peak_rss, sum(pages for _, pages in found.values()) * PAGE)
            self.peak_processes = max(self.peak_processes, len(found))

    def wait_idle(self, timeout: float = 25.0) -> None:
        """Until the workers have started and use almost no CPU."""
        deadline = time.monotonic() + timeout
        time.sleep(1.5)
        last, quiet = self.cpu_s(), 0
        while time.monotonic() < deadline and quiet < 2:
            time.sleep(0.4)
            now = self.cpu_s()
            quiet = quiet + 1 if now - last < 0.04 else 0
            last = now

    def kill_one(self, number: int) -> None:
        """SIGKILL everything in a parent's session, as when its container is killed."""
        parent = self._parents[number]
        for _ in range(50):
            found = members({parent.pid})
            if not found:
                break
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        parent.wait()

    def stop(self) -> None:
        """What was to be measured has been: no grace."""
        self._stopped.set()
        for number in self._parents:
            self.kill_one(number)
        self._thread.join()
