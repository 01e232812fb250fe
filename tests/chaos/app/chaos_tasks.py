"""The tasks of the chaos run. Each leaves a line when it begins, ends and fails, in one write, so that none mix."""

import os
import signal
import time
from pathlib import Path

from taskstream import Taskstream

app = Taskstream("chaos", results="file://results")
EFFECTS = Path(__file__).with_name("effects.log")


def leave_line(step: str, number: int) -> None:
    """Append ``step number pid time``."""
    file = os.open(EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f"{step} {number} {os.getpid()} {time.time()}\n".encode())
    finally:
        os.close(file)


@app.task(max_retries=3, retry_backoff=0.2, autoretry_for=(OSError,))
def work(number: int, kind: str, seconds: float) -> int:
    """``kind``: quick, sleep (``seconds``), flaky (fails once), hopeless (always fails), poison (kills its process)."""
    leave_line("begin", number)
    if kind == "sleep":
        time.sleep(seconds)
    elif kind == "flaky":
        mark = EFFECTS.with_name(f"flaky-{number}")
        if not mark.exists():
            mark.touch()
            leave_line("fail", number)
            raise OSError("fails the first time")
    elif kind == "hopeless":
        leave_line("fail", number)
        raise ValueError("always fails")
    elif kind == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    leave_line("end", number)
    return number
