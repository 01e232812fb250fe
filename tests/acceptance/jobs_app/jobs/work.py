"""
Work
====
Does a job and leaves a line at its beginning and at its end.
"""

import os
import time

from taskstream.app.context import EventContext

from .model import Job

__steps__ = ["run"]


def run(job: Job, context: EventContext) -> str:
    """Does the job with blocking calls, as people write them."""
    leave_line(context, "begin", job)
    if job.kind == "sleep":
        time.sleep(job.seconds)
    assert context.stream is not None
    if job.kind == "fail" and context.stream.attempt <= job.failures:
        raise RuntimeError(f"{job.job} was made to fail")
    leave_line(context, "end", job)
    return f"{job.job} done"


def leave_line(context: EventContext, step: str, job: Job) -> None:
    """Append one line in one write, so that lines of several processes never mix."""
    assert context.stream is not None
    line = f"{step} {job.job} {context.stream.attempt} {os.getpid()} {time.time()}\n"
    file = os.open(context.env["effects"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)
