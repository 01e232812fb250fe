"""A worker process' ends of the pipes to its supervisor; ``orders.py`` says what goes over them. Decides nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import gevent
import gevent.socket
import msgspec
from gevent.lock import RLock

from .options import ProcessOptions
from .orders import STOP, Report

_sending = RLock()


def send(fd: int, report: Report) -> None:
    """Write one report; a supervisor that is gone hears nothing, one that is stopped holds up only the caller."""
    line = msgspec.json.encode(report) + b"\n"
    with _sending, contextlib.suppress(OSError):
        os.set_blocking(fd, False)
        while line:
            try:
                line = line[os.write(fd, line) :]
            except BlockingIOError:
                gevent.socket.wait_write(fd)


def read_options(fd: int) -> ProcessOptions:
    """The options, from the pipe's first line. Raises EOFError if the supervisor is gone already."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(fd, 1)  # no further than the line: orders follow
        if not data:
            raise EOFError("the supervisor ended before it sent the options")
        line += data
    return msgspec.json.decode(line, type=ProcessOptions)


def listen(fd: int, on_order: Callable[[bytes], None]) -> None:
    """Start a greenlet that calls ``on_order`` for each order, and with STOP at the end of the pipe."""
    os.set_blocking(fd, False)
    gevent.spawn(_listen, fd, on_order)


def _listen(fd: int, on_order: Callable[[bytes], None]) -> None:
    rest = b""
    while True:
        gevent.socket.wait_read(fd)
        data = os.read(fd, 4096)
        if not data:
            on_order(STOP)
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            on_order(line + b"\n")
