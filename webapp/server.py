"""The production server: granian's HTTP side in native threads, the Flask app in a pool of Python threads.

``serve()`` is the parent of the web processes. It checks everything that can be wrong first, so that a mistake is
one line, then keeps the processes running until it is told to stop. It runs none of the application's code itself.
Why granian: benchmarks/RESULTS.md.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import RawValue
from types import FrameType
from typing import TYPE_CHECKING

from taskstream import logs, root_log
from taskstream.errors import ConfigError
from taskstream.launcher import request_death_signal

from .settings import is_loopback, token_from

if TYPE_CHECKING:
    from flask import Flask

    from .wiring import Parts

STOP_TIMEOUT_S = 8
"""How long web processes may take to finish the requests they have when told to stop."""

PARENT_POLL_S = 1.0

TRIES = 3
"""How often in a row each web process may fail to start before the server ends."""

log = logs.engine_logger("web")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What ``taskstream web`` was asked for. None: as configured. ``threads`` are per process."""

    config_files: str | None = None
    app: str | None = None
    host: str = "127.0.0.1"
    port: int = 8020
    processes: int = 2
    threads: int = 16
    insecure: bool = False
    broker_url: str | None = None
    log_level: str | None = None
    log_format: str | None = None


def serve(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status: 0 after a clean stop, 1 if the web processes died.

    Call it from the main thread. Raises ConfigError for what cannot be served, before anything listens.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    address, port = check_address(options)
    _check_application(options)
    logs.configure(
        options.log_level or os.environ.get("TASKSTREAM_LOG_LEVEL", "INFO"),
        options.log_format or os.environ.get("TASKSTREAM_LOG_FORMAT", "text"),
    )
    with tempfile.TemporaryDirectory(prefix="taskstream-web-") as folder:
        # Before prometheus_client is imported: web processes share their counts there.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        log.info("Listening", {"url": f"http://{_shown(address)}:{port}", "processes": options.processes})
        return _run(options, address, port)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(0)


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def check_address(options: ServeOptions) -> tuple[str, int]:
    """The address and port to listen on.

    Raises ConfigError where that would open the server to others without a token, and where it is not free.
    """
    try:
        family, _, _, _, found = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f"cannot listen on host {options.host!r}, port {options.port}: {error}") from None
    address = str(found[0])
    if not (is_loopback(address) or options.insecure or token_from(os.environ)):
        raise ConfigError(
            f"without a token the server listens on loopback only, not on {options.host}: "
            "set TASKSTREAM_AUTH_TOKEN, or pass --insecure to let anybody in"
        )
    # granian shares the port between its processes (SO_REUSEPORT) and would share it with another server too.
    with socket.socket(family) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, options.port))
            probe.listen(1)
        except OSError as error:
            raise ConfigError(
                f"port {options.port} on {options.host} cannot be used: {error.strerror}; choose another with --port"
            ) from None
        return address, int(probe.getsockname()[1])


def _check_application(options: ServeOptions) -> None:
    """Load everything once, in a process of its own. Raises ConfigError with what it finds wrong."""
    # Not by a fork server, which would be the parent instead of this process.
    if sys.platform == "linux":
        context = multiprocessing.get_context("fork")
    else:
        context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_check, args=(options, sender, os.getpid()))
    process.start()
    sender.close()
    try:
        problem: str | None = receiver.recv()
    except EOFError:
        raise ConfigError("the application could not be loaded; the output above has the reason") from None
    except SystemExit:  # told to stop meanwhile
        process.kill()
        raise
    finally:
        process.join()
    if problem is not None:
        raise ConfigError(problem)


def _check(options: ServeOptions, sender: Connection, parent: int) -> None:
    _belong_to(parent)
    try:
        _parts(options).document  # noqa: B018  # what cannot be described is a mistake too
        sender.send(None)
    except ConfigError as error:
        sender.send(str(error))
    # Threads that the application's modules started must not keep this process.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _parts(options: ServeOptions) -> Parts:
    from taskstream.aio import Bridge, threading_backend
    from taskstream.app.loading import load_app

    from .tracking import of_request
    from .wiring import configure_logs, gather

    parts = gather(
        options.config_files,
        load_app(options.app) if options.app else None,
        Bridge(threading_backend()).run,
        broker_url=options.broker_url,
        insecure=options.insecure,
    )
    root_log.take_over(configure_logs(parts, options.log_level, options.log_format))
    logs.tell_of_runs(of_request)
    return parts


def _load_worker(options: ServeOptions, parent: int, failed: ctypes.c_int) -> Flask:
    """Make the Flask app in a web process. Runs there. ``failed`` is shared: how many in a row could not."""
    _belong_to(parent)
    from .app import build
    from .held import Held

    held = Held(options.threads // 2)
    _on_stop(held.stop)
    try:
        app = build(_parts(options), held)
    except Exception as error:
        log.error("A web process cannot start", exc=error)
        failed.value += 1
        if failed.value >= TRIES * options.processes:
            # Granian notices only those that die together, or soon after their start, and a busy machine takes longer.
            os.kill(parent, signal.SIGTERM)
        sys.exit(1)
    failed.value = 0
    return app


def _belong_to(parent: int) -> None:
    """Leave the terminal's process group, so that Ctrl-C reaches only the parent, and never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.name == "posix":
        os.setpgid(0, 0)
    if sys.platform == "linux":
        request_death_signal(signal.SIGKILL)
    else:
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _on_stop(tell: Callable[[], None]) -> None:
    """Call ``tell`` once when this process is told to stop, whatever handles the signal. Call it in the main thread."""
    if os.name != "posix":
        return
    # Granian sets handlers of its own later, and tells no application. Python writes the number of any signal that has
    # a handler to this descriptor, beside calling it.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def wait() -> None:
        while os.read(reader, 1)[0] not in (signal.SIGTERM, signal.SIGINT):
            pass
        tell()

    threading.Thread(target=wait, name="taskstream-stop", daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)


class _EngineLines(logging.Handler):
    """Granian's own lines in the form of all others."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, record.getMessage(), exc=record.exc_info[1] if record.exc_info else None)


def _run(options: ServeOptions, address: str, port: int) -> int:
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    server = Server(
        "taskstream_webapp",
        address=address,
        port=port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,
        workers=options.processes,
        blocking_threads=options.threads,
        respawn_failed_workers=True,
        workers_kill_timeout=STOP_TIMEOUT_S,
        log_level=LogLevels.error,
        log_dictconfig={
            "handlers": {"engine": {"()": _EngineLines}},
            "loggers": {"_granian": {"handlers": ["engine"], "propagate": False}},
        },
    )
    failed = RawValue(ctypes.c_int, 0)
    try:
        server.serve(target_loader=partial(_load_worker, options, os.getpid(), failed), wrap_loader=False)
        status = 0
    except SystemExit as end:
        # Granian says 1 also where a stop signal reached its processes before itself.
        status = 0 if server.interrupt_signal else int(end.code or 0)
    finally:
        # Python ends with the default handlers, and a second Ctrl-C would then spoil a clean exit status.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    return 1 if failed.value >= TRIES * options.processes else status
