"""How a pool ends: signals, grace, exit statuses, and that it leaves nothing behind."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Started, eventually
from jobs import Jobs

from taskstream import keys

PIPES = """

def pipes():
    for fd in range(3, 100):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
                yield fd
        except OSError:
            pass

"""
CLOSES = f"""{PIPES}
@app.task
def closes() -> None:
    for fd in pipes():
        os.close(fd)
"""
FORGES = f"""{PIPES}
@app.task
def forges() -> None:
    for fd in pipes():
        try:
            os.write(fd, b'{{"kind":"begin","number":99,"stream":"s","group":"g","consumer":"c","url":"no://x"}}\\n')
        except OSError:
            pass
"""


@pytest.fixture
def jobs(tmp_path: Path, broker_url: str, start_cli: Callable[..., Started]) -> Jobs:
    """The app, without a pool."""
    return Jobs(tmp_path, broker_url, start_cli)


def left_nothing(jobs: Jobs) -> bool:
    """Neither consumers nor leases nor an entry among the workers."""
    client = jobs.broker.client
    again = client.xinfo_consumers("ts:{jobs}:again:taskstream", "taskstream")
    leases = client.exists(keys.leases("jobs", "taskstream"))
    return (jobs.state.consumers, len(again), leases, client.exists(keys.WORKERS)) == (0, 0, 0, 0)


@pytest.mark.parametrize("by", ["SIGTERM", "SIGINT as a terminal sends it"])
def test_a_clean_stop_finishes_what_runs_and_leaves_the_rest(jobs: Jobs, by: str) -> None:
    # Given a message that runs and others behind it
    pool = jobs.pool(processes=2, concurrency=1)
    jobs.running(2)
    ids = [jobs.send("slow", key) for key in "abcde"]
    eventually(lambda: sum(len(jobs.runs("start", key)) for key in "abcde") == 2)
    # When the pool is told to stop
    if by == "SIGTERM":
        pool.send(signal.SIGTERM)
    else:
        pool.send(signal.SIGINT, group=True)
    eventually(lambda: pool.output.count("Worker stops") == 2)
    jobs.go(*"abcde")
    # Then those two finish, nothing else is started and nothing is left of the pool
    assert pool.wait() == 0
    assert sum(len(jobs.runs("end", key)) for key in "abcde") == 2
    assert sum(jobs.found(one) is not None for one in ids) == 2
    jobs.settled(waiting=3)
    assert left_nothing(jobs) and pool.family() == []
    # And the next pool runs the others
    jobs.pool()
    assert [(found.state, found.delivery) for found in map(jobs.outcome, ids)] == [("SUCCESS", 1)] * 5
    assert all(len(jobs.runs("start", key)) == 1 for key in "abcde")
    jobs.settled()


def test_a_second_signal_interrupts_and_gives_back(jobs: Jobs) -> None:
    pool = jobs.pool(concurrency=2)
    ids = [jobs.send("slow", key) for key in "ab"]
    eventually(lambda: all(jobs.runs("start", key) for key in "ab"))
    pool.send(signal.SIGTERM)
    eventually(lambda: "Worker stops" in pool.output)
    pool.send(signal.SIGTERM)
    assert pool.wait(10) == 1
    # Both were told and wait again, and no death was counted
    assert all(len(jobs.runs("interrupted", key)) == 1 for key in "ab")
    jobs.settled(waiting=2)
    assert left_nothing(jobs)
    assert jobs.broker.client.exists(keys.deaths("jobs", "taskstream")) == 0
    jobs.go(*"ab")
    jobs.pool()
    assert [(found.state, found.delivery, found.attempts) for found in map(jobs.outcome, ids)] == [
        ("SUCCESS", 2, 1)
    ] * 2


def test_a_second_signal_ends_c_code_too_and_blames_nobody(jobs: Jobs) -> None:
    # Given C code that holds the interpreter, so that its process hears no order
    pool = jobs.pool("--grace", "100")
    message_id = jobs.send("hog", 60)
    eventually(lambda: jobs.runs("hog"))
    stopped = time.monotonic()
    pool.send(signal.SIGTERM)
    eventually(lambda: "Pool stops" in pool.output)
    pool.send(signal.SIGTERM)
    # Then it is killed long before the grace time ends, once, and the message waits for its next run
    assert pool.wait(30) == 1
    assert time.monotonic() - stopped < 25
    assert pool.output.count("does not stop, killing it") == 1
    assert jobs.found(message_id) is None
    assert jobs.broker.client.exists(keys.deaths("jobs", "taskstream")) == 0


def test_a_process_that_closes_its_pipes_is_replaced(jobs: Jobs) -> None:
    with open(jobs.folder / "jobs.py", "a") as file:
        file.write(CLOSES)
    pool = jobs.pool()
    jobs.send("closes")
    eventually(lambda: pool.output.count("Worker starts") == 2)
    assert pool.output.count("has closed the pipe it reports over, killing it") == 1
    jobs.outcome(jobs.send("add", 1, 2))
    pool.send(signal.SIGTERM)
    assert pool.wait(10) == 0


def test_a_forged_report_does_not_end_the_supervisor(jobs: Jobs) -> None:
    with open(jobs.folder / "jobs.py", "a") as file:
        file.write(FORGES)
    pool = jobs.pool(lease=1)
    jobs.outcome(jobs.send("forges"))
    jobs.send("hog", 2)
    # Its heartbeat stands still, so that the supervisor renews for it
    eventually(lambda: "told of a lease that cannot be" in pool.output)
    jobs.outcome(jobs.send("add", 1, 2))
    pool.send(signal.SIGTERM)
    assert pool.wait(10) == 0


def test_what_runs_longer_than_the_grace_time_is_interrupted(jobs: Jobs) -> None:
    pool = jobs.pool("--grace", "0.3")
    jobs.send("slow", "a")
    jobs.send("slow_later", "b")
    jobs.send("stubborn", "c")
    eventually(lambda: all(jobs.runs("start", key) for key in "abc"))
    stopped = time.monotonic()
    pool.send(signal.SIGTERM)
    assert pool.wait(10) == 1
    assert time.monotonic() - stopped < 8
    jobs.settled(waiting=3)
    assert left_nothing(jobs)


def test_an_idle_pool_stops_at_once(jobs: Jobs) -> None:
    pool = jobs.pool(processes=2)
    jobs.running(2)
    stopped = time.monotonic()
    pool.send(signal.SIGTERM)
    assert pool.wait() == 0
    assert time.monotonic() - stopped < 4
    assert left_nothing(jobs)


@pytest.mark.parametrize("by", ["SIGTERM", "SIGINT as a terminal sends it"])
def test_a_pool_told_to_stop_while_it_starts(jobs: Jobs, by: str) -> None:
    pool = jobs.pool()
    eventually(lambda: len(pool.family()) > 1)
    if by == "SIGTERM":
        pool.send(signal.SIGTERM)
    else:
        pool.send(signal.SIGINT, group=True)
    assert pool.wait(15) == 0
    assert pool.family() == [] and "died" not in pool.output and "Traceback" not in pool.output


@pytest.mark.parametrize(
    ("target", "said"),
    [("nowhere:app", "nowhere"), ("jobs:missing", "missing"), ("broken_module", "ZeroDivisionError")],
)
def test_code_that_cannot_be_run_is_one_line_and_status_2(
    jobs: Jobs, start_cli: Callable[..., Started], target: str, said: str
) -> None:
    (jobs.folder / "broken_module.py").write_text("1 / 0")
    pool = start_cli("worker", "-A", target, "--broker", jobs.url, cwd=jobs.folder)
    assert pool.wait() == 2
    (line,) = [line for line in pool.output.splitlines() if "| INFO |" not in line and "--broker" not in line]
    assert line.startswith("taskstream: ") and said in line


def test_a_pool_whose_broker_is_away_stops_cleanly(jobs: Jobs, start_cli: Callable[..., Started]) -> None:
    pool = start_cli("worker", "-A", "jobs:app", "--broker", "redis://127.0.0.1:1/0", cwd=jobs.folder)
    eventually(lambda: "does not answer" in pool.output)
    pool.send(signal.SIGTERM)
    assert pool.wait(10) == 0


def test_a_process_that_dies_at_once_is_started_again_with_growing_pauses(jobs: Jobs) -> None:
    (jobs.folder / "suicide.py").write_text(
        "import os, time\nopen('starts', 'a').write(f'{time.monotonic()}\\n')\nos._exit(7)\n"
    )
    started = time.monotonic()
    pool = jobs._start(
        *("worker", "-A", "suicide:app", "--broker", jobs.url, "--processes", "1"), cwd=jobs.folder, env={}
    )
    times = eventually(
        lambda: len(found := (jobs.folder / "starts").read_text().split()) >= 4 and [float(one) for one in found], 20
    )
    assert times[0] > started
    # 0.2, 0.4 and 0.8 s and half of that at least, beside what the start itself takes
    assert times[3] - times[0] > 0.7
    assert times[3] - times[2] > 0.4
    # Each is said in one line, with what is going to happen
    eventually(lambda: pool.output.count("died") >= 4)
    assert pool.output.count("status=status 7") == pool.output.count("next_start_s=") == pool.output.count("| ERROR |")
    # And a stop does not wait for the next start
    pool.send(signal.SIGTERM)
    assert pool.wait(5) in (0, 1)
