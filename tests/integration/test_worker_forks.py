"""Tasks that fork: the copy runs what it was forked for, and nothing of the worker's work."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from helpers import Started, eventually
from jobs import Jobs

TASKS = """
import multiprocessing, os, subprocess, sys, time
from pathlib import Path

from taskstream import Taskstream

HERE = Path(__file__).parent
app = Taskstream("jobs", results="json://results")


def note(*words):
    with open(HERE / "runs", "a") as file:
        file.write(" ".join(map(str, (*words, os.getpid()))) + "\\n")


def work(key):
    note("forked", key)
    time.sleep(60 if key == "long" else 1.0)
    os._exit(0) if key == "quiet" else sys.exit(5)


@app.task
def forks(key: str) -> int:
    process = multiprocessing.get_context("fork").Process(target=work, args=(key,))
    process.start()
    process.join()
    return process.exitcode


@app.task
def ends(key: str) -> int:
    process = multiprocessing.get_context("fork").Process(target=work, args=(key,))
    process.start()
    while f"forked {key}" not in (HERE / "runs").read_text():
        time.sleep(0.01)
    process.terminate()
    process.join()
    return process.exitcode


@app.task
def twice(way: str) -> int:
    pid = os.fork()
    note("twice", way)
    if pid == 0 and way == "sleep":
        time.sleep(0.3)
    if pid == 0 and way == "exit":
        sys.exit(3)
    if pid == 0 and way == "raise":
        raise ValueError("in the copy")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 77


@app.task
def program(key: str) -> int:
    process = subprocess.Popen([sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"], stdout=-1)
    process.stdout.readline()
    process.terminate()
    return process.wait()


@app.task
def quick(key: str) -> str:
    note("quick", key)
    time.sleep(0.02)
    return key
"""


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app with tasks that fork."""
    jobs = Jobs(tmp_path, broker_url, start_cli)
    (tmp_path / "jobs.py").write_text(TASKS)
    return jobs


def value(jobs: Jobs, message_id: str) -> int:
    return msgspec.json.decode(jobs.outcome(message_id).value, type=int)


def test_a_fork_runs_nothing_but_what_it_was_forked_for(jobs: Jobs) -> None:
    # Given processes that live for a second beside many short messages
    pool = jobs.pool("--lease", "2", concurrency=8)
    forked = [jobs.send("forks", key) for key in ("quiet", "loud")]
    ids = [jobs.send("quick", str(number)) for number in range(60)]
    eventually(lambda: len(jobs.runs("forked", "quiet")) == len(jobs.runs("forked", "loud")) == 1)
    ids += [jobs.send("quick", str(number)) for number in range(60, 150)]
    ended = [jobs.send("ends", "long"), jobs.send("program", "")]
    # Then every message runs once, in the one worker process, and the exit statuses arrive
    assert [value(jobs, one) for one in forked + ended] == [0, 5, -signal.SIGTERM, -signal.SIGTERM]
    assert all(jobs.outcome(one).delivery == 1 for one in ids)
    assert all(len(jobs.runs("quick", str(number))) == 1 for number in range(150))
    jobs.settled()
    # And the pool stops as ever
    pool.send(signal.SIGTERM)
    assert pool.wait(10) == 0
    assert "| ERROR |" not in pool.output and "| WARNING |" not in pool.output


def test_a_copy_that_comes_back_from_the_task_ends_there(jobs: Jobs) -> None:
    pool = jobs.pool(concurrency=2)
    ids = [jobs.send("twice", way) for way in ("return", "sleep", "exit", "raise")]
    found = [jobs.outcome(one) for one in ids]
    assert [(one.state, msgspec.json.decode(one.value), one.delivery) for one in found] == [
        ("SUCCESS", status, 1) for status in (0, 0, 3, 1)
    ]
    assert all(len(jobs.runs("twice", way)) == 2 for way in ("return", "sleep", "exit", "raise"))
    jobs.settled()
    pool.send(signal.SIGTERM)
    assert pool.wait(10) == 0
