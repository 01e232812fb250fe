"""The execution probe: the only thing a task does beside its own work.

Every run appends one record of fixed size with a single write to a file opened with O_APPEND on tmpfs. Appends are
atomic, so this is the same for threads, greenlets, asyncio, forked and spawned workers, needs no hook at the end, and
survives SIGKILL; it takes less than a microsecond. Standard library only: it runs inside every peer's environment.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

RECORD = struct.Struct("<IIIIdd")
DONE, START = 0, 1

_path = os.environ.get("PEERS_PROBE")
_fd = os.open(_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) if _path else -1
_pack = RECORD.pack
_write = os.write
_getpid = os.getpid
_time = time.time


class Record(NamedTuple):
    """Task ``id`` reached ``kind`` in process ``pid`` at ``at``; ``begun`` is what the body said (both Unix time)."""

    id: int
    pid: int
    kind: int
    begun: float
    at: float


def mark(id: int, kind: int = DONE, begun: float = 0.0) -> None:
    """Record that task ``id`` reached ``kind`` now."""
    _write(_fd, _pack(id, _getpid(), kind, 0, begun, _time()))


def read(path: Path) -> list[Record]:
    """All records; a torn end is left out."""
    data = path.read_bytes()
    whole = data[: len(data) // RECORD.size * RECORD.size]
    return [Record(id, pid, kind, begun, at) for id, pid, kind, _, begun, at in RECORD.iter_unpack(whole)]


def count(path: Path) -> int:
    """How many records there are."""
    return path.stat().st_size // RECORD.size
