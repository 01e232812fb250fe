"""A pool of several processes, forked by one that has loaded the engine: each is a process like any other."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from helpers import Started, eventually
from jobs import Jobs, kill, worker_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process is started by itself")

TASKS = """
import gc, json, os, random, subprocess, threading
from pathlib import Path

from taskstream import Taskstream
from taskstream.message import new_id

HERE = Path(__file__).parent
app = Taskstream("jobs", results="json://results")
LOADED = os.getpid()


@app.task
def look(key: str) -> None:
    orphan = subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True).stdout
    seen = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "loaded": LOADED,
        "id": new_id(),
        "random": random.random(),
        "orphan": int(orphan),
        "shared": gc.get_freeze_count() > 0,
        "pipes": sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                        if os.path.exists(f"/proc/self/fd/{fd}")),
    }
    (HERE / f"{os.getpid()}.part").write_text(json.dumps(seen))
    os.rename(HERE / f"{os.getpid()}.part", HERE / f"seen-{os.getpid()}")
    while not (HERE / f"go-{key}").exists():
        __import__("time").sleep(0.01)
"""


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app that looks at its process."""
    jobs = Jobs(tmp_path, broker_url, start_cli)
    (tmp_path / "jobs.py").write_text(TASKS)
    return jobs


def test_siblings_share_what_was_loaded_and_nothing_else(jobs: Jobs) -> None:
    # Given a pool of three with room for one message each
    pool = jobs.pool(processes=3, concurrency=1)
    jobs.running(3)
    sent = [jobs.send("look", "a") for _ in range(3)]
    eventually(lambda: len(list(jobs.folder.glob("seen-*"))) == 3, 20, lambda: pool.output)
    seen = [json.loads(path.read_text()) for path in jobs.folder.glob("seen-*")]
    try:
        # Then they were forked from one, are the supervisor's own children, and it is left with no other
        assert all(one["shared"] and one["parent"] == pool.pid for one in seen)
        assert sorted(worker_processes(pool)) == sorted(one["pid"] for one in seen)
        # And each has imported the application by itself, and draws ids and numbers of its own
        assert all(one["loaded"] == one["pid"] for one in seen)
        assert len({one["id"] for one in seen}) == len({one["random"] for one in seen}) == 3
        # And has no end of another's pipes
        own = [set(re.findall(r"pipe:\[\d+\]", " ".join(one["pipes"]))) for one in seen]
        assert all(own) and not own[0] & own[1] and not own[0] & own[2] and not own[1] & own[2]
        # And what a task's program leaves behind is not the supervisor's
        assert all(psutil.Process(one["orphan"]).ppid() != pool.pid for one in seen)
    finally:
        for one in seen:
            os.kill(one["orphan"], signal.SIGKILL)
    # When one is killed, then it is replaced, by one that was not forked from anything
    jobs.go("a")
    for message_id in sent:
        assert jobs.outcome(message_id).state == "SUCCESS"
    jobs.settled()
    kill(seen[0]["pid"], signal.SIGKILL)
    eventually(lambda: len(set(worker_processes(pool)) - {seen[0]["pid"]}) == 3)
    assert pool.output.count("Worker process died") == 1 and "SIGKILL" in pool.output
    # And the pool stops cleanly
    jobs.running(3)
    pool.process.terminate()
    assert pool.wait() == 0
    assert pool.family() == []


def test_a_starter_that_is_killed_costs_a_pause(jobs: Jobs) -> None:
    # Given a pool whose processes are about to be forked
    pool = jobs.pool(processes=2)
    (starter,) = eventually(lambda: worker_processes(pool))
    # When the one that is to fork them is killed
    kill(starter, signal.SIGKILL)
    # Then the pool starts them all the same
    jobs.running(2)
    assert pool.output.count("Worker process died") == 2
    pool.process.terminate()
    assert pool.wait() == 0


def test_a_pool_that_is_stopped_while_its_processes_start(jobs: Jobs) -> None:
    pool = jobs.pool(processes=2)
    eventually(lambda: worker_processes(pool))
    pool.process.terminate()
    assert pool.wait() == 0
    assert pool.family() == []
