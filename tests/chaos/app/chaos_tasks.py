"""The tasks of the chaos run in their old release. Each leaves a record when it begins, ends and fails."""

import os
import signal
import time
from pathlib import Path

from chaos_effects import END, FAIL, begin, leave

from taskstream import Taskstream

# One producer has an outbox; what an older Taskstream does not know is not named to it.
OUTBOX = {"outbox": "file://outbox"} if os.environ.get("CHAOS_OUTBOX") else {}
app = Taskstream("chaos", results="file://results", **OUTBOX)  # the run names another place in TASKSTREAM_RESULTS
MARKS = Path(__file__).with_name("marks")


@app.task(max_retries=3, retry_backoff=0.2, autoretry_for=(OSError,))
def work(number: int, kind: str = "quick", seconds: float = 0.0) -> int:
    """``kind``: quick, sleep (``seconds``), flaky (fails once), long (sleeps, then fails once), hopeless."""
    run = begin(number)
    if kind in ("sleep", "long"):
        time.sleep(seconds)
    if kind in ("flaky", "long"):
        fail_once(number, run)
    elif kind == "hopeless":
        leave(FAIL, number, run)
        raise ValueError("always fails")
    leave(END, number, run)
    return number


@app.task(max_retries=1, retry_backoff=3.0, retry_jitter=False, autoretry_for=(OSError,))
def late(number: int) -> int:
    """Fails once, and waits for three seconds before it is tried again."""
    run = begin(number)
    fail_once(number, run)
    leave(END, number, run)
    return number


@app.task(queue="chaos-poison")
def poison(number: int) -> int:
    """Kills the process it runs in."""
    begin(number)
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail_once(number: int, run: int) -> None:
    """Raise OSError unless this number was here before."""
    MARKS.mkdir(exist_ok=True)
    mark = MARKS / str(number)
    if not mark.exists():
        mark.touch()
        leave(FAIL, number, run)
        raise OSError("fails the first time")
