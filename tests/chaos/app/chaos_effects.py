"""What a run leaves behind: a record of 17 bytes for each step, in one write, in a file of its process' own."""

import itertools
import os
import struct
import time
from pathlib import Path

RECORD = struct.Struct("=cIId")
"""Step, number of the call, number of the run in its process, monotonic time (s; one clock for a whole machine)."""

BEGIN, END, FAIL = b"b", b"e", b"f"
FOLDER = "effects"

_descriptor = -1
_runs = itertools.count()


def begin(number: int) -> int:
    """Leave the record of a run's begin; return what its other records are left with."""
    run = next(_runs)
    leave(BEGIN, number, run)
    return run


def leave(step: bytes, number: int, run: int) -> None:
    """Append one record to ``effects/PID-NANOSECONDS``: a pid alone may be used again in a long run."""
    global _descriptor
    if _descriptor < 0:
        folder = Path(__file__).with_name(FOLDER)
        folder.mkdir(exist_ok=True)
        path = folder / f"{os.getpid()}-{time.monotonic_ns()}"
        _descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_descriptor, RECORD.pack(step, number, run, time.monotonic()))
