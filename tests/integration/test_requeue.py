"""Requeueing with real pools, real kills, and two releases of the code."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import OwnServer, Started, eventually
from jobs import MODULE, Jobs
from letters import DEAD, LETTERS, STREAM, again, bury_many
from shop import write_shop

from taskstream.broker import Broker
from taskstream.broker.letters import DeadLetter, Letters
from taskstream.handler import QUEUE_GROUP
from taskstream.message import Message

RunCli = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., Started]

NEXT_RELEASE = """

@app.task
def mends(key: str) -> str:
    note("mends", key)
    if not (HERE / f"mended-{key}").exists():
        raise LookupError(f"not yet: {key}")
    return key
"""
EVENT = '''
"""
Bill
"""
import os
import signal
from pathlib import Path
from taskstream.app.context import EventContext
from .model import Order

__steps__ = ["bill"]

def bill(order: Order, context: EventContext) -> str:
    with open("runs", "a") as file:
        file.write(f"{order.item}{context.stream.attempt} ")
    if order.item == "poison" or not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError("never")
'''


@pytest.fixture
def jobs(own_valkey: OwnServer, tmp_path: Path, start_cli: Start) -> Iterator[Jobs]:
    folder = tmp_path / "app"
    folder.mkdir()
    jobs = Jobs(folder, own_valkey.url, start_cli)
    yield jobs
    jobs.broker.close()


def letter_of(jobs: Jobs, message_id: str) -> DeadLetter:
    ((found, _),) = Letters(jobs.broker, STREAM, QUEUE_GROUP).get([message_id])
    return found[0]


def test_a_rolling_deploy_and_a_requeue_until_it_works(jobs: Jobs, run_cli: RunCli) -> None:
    # Given a pool of the old release, and producers of the new one
    old = jobs.pool()
    jobs.running()
    early = jobs.send("mends", "early")
    late = Message("late", "jobs.mends", b'{"args":["late"]}', {"ts-unknown": 12})
    jobs.broker.publish("jobs", late)
    # Then what it does not know is put back for others, and given up only after many times
    jobs.settled(delayed=1, dead=1)
    given_up = letter_of(jobs, "late")
    assert given_up.error.type == "UnknownHandler"
    # When the new release runs beside the old one, and then alone
    (jobs.folder / "jobs.py").write_text(MODULE + NEXT_RELEASE, encoding="utf-8")
    (jobs.folder / "mended-early").touch()
    jobs.pool()
    jobs.running(2)
    old.send(signal.SIGTERM)
    assert old.wait() == 0
    # Then it does what the old one could not, as the first attempt
    outcome = jobs.outcome(early)
    assert (outcome.state, outcome.attempts) == ("SUCCESS", 1)
    # And what had been given up can be requeued, with as many chances as it had before; here it fails by itself
    assert Letters(jobs.broker, STREAM, QUEUE_GROUP).requeue([given_up])[0].done
    eventually(lambda: jobs.runs("mends", "late"))
    jobs.settled(dead=1)
    found = letter_of(jobs, "late")
    assert [past.type for past in found.history()] == ["UnknownHandler"]
    assert (found.error.type, found.attempts, found.handler) == ("LookupError", 1, "jobs.mends")
    before = jobs.outcome("late")
    assert before.state == "FAILURE" and before.error is not None and before.error.type == "LookupError"
    # When what was wrong is mended
    (jobs.folder / "mended-late").touch()
    done = run_cli("dead", "requeue", "jobs", "--error", "LookupError", "--broker", jobs.url, cwd=jobs.folder)
    assert (done.returncode, done.stdout) == (0, "requeued 1 dead letter of jobs\n"), done.stderr
    # Then the same message succeeds, and its outcome replaces the failure
    eventually(lambda: jobs.outcome("late").state == "SUCCESS")
    after = jobs.outcome("late")
    assert after.delivery > before.delivery and (after.attempts, after.sent_ms) == (1, before.sent_ms)
    assert len(jobs.runs("mends", "late")) == 2
    jobs.settled()
    assert jobs.letters() == {}


def test_a_requeue_that_is_killed_loses_nothing(broker_url: str, start_cli: Start) -> None:
    broker = Broker(broker_url)
    broker.announce_subscriptions({STREAM: (STREAM, "taskstream")}, 60)
    buried = bury_many(broker, 5000)
    started = start_cli("dead", "requeue", STREAM, "--all", "--broker", broker_url)
    group_stream = f"ts:{{{STREAM}}}:again:taskstream"
    deadline = time.monotonic() + 60
    while broker.stream_length(group_stream) < 200 and time.monotonic() < deadline:
        pass
    started.send(signal.SIGKILL)
    started.wait()
    left: set[str] = {key.decode() for key in broker.client.hkeys(LETTERS)}  # type: ignore[union-attr]
    put_back = [entry["id"] for entry in again(broker)]
    assert {member.decode() for member in broker.client.zrange(DEAD, 0, -1)} == left  # type: ignore[union-attr]
    assert left and put_back and sorted([*left, *put_back]) == buried
    # And whoever does it again ends it, two at once too
    both = [start_cli("dead", "requeue", STREAM, "--all", "--broker", broker_url) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0], [one.output for one in both]
    done = [int(number) for one in both for number in re.findall(r"requeued (\d+) dead letters", one.output)]
    assert len(done) == 2 and sum(done) == len(left)
    assert sorted(entry["id"] for entry in again(broker)) == buried
    assert not broker.client.exists(DEAD, LETTERS)
    broker.close()


def test_an_event_obeys_its_own_settings_and_counts_runs_apart_from_deliveries(jobs: Jobs, start_cli: Start) -> None:
    folder = jobs.folder / "shop"
    folder.mkdir()
    write_shop(folder, jobs.url)
    config = json.loads((folder / "config.json").read_text())
    config["events"]["bill"]["config"] = {"stream": {"max_retries": 1, "max_deliveries": 2, "retry_backoff": 0.01}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "shop_app" / "bill.py").write_text(EVENT)
    jobs.broker.client.config_set("maxmemory", 10**9)
    jobs.broker.client.config_set("maxmemory-policy", "volatile-lru")
    pool = start_cli("worker", "--processes", "2", "--lease", "1", cwd=folder)
    jobs.broker.publish("orders", Message("m1", "Order", b'{"item":"a"}'))
    # The first run ends with its process, which is no attempt of the handler's; then there are one run and one retry
    letters = "ts:{orders}:letters:billing"
    letter = json.loads(eventually(lambda: jobs.broker.client.hget(letters, "m1"), 30.0))  # type: ignore[arg-type]
    assert (folder / "runs").read_text().split() == ["a1", "a1", "a2"]
    assert (letter["error"]["type"], letter["attempts"], letter["deliveries"]) == ("OSError", 2, 3)
    assert letter["handler"] == "shop-app.bill"
    # And so many processes may die under a message
    jobs.broker.publish("orders", Message("m2", "Order", b'{"item":"poison"}'))
    letter = json.loads(eventually(lambda: jobs.broker.client.hget(letters, "m2"), 30.0))  # type: ignore[arg-type]
    assert (letter["error"]["type"], letter["deaths"]) == ("WorkerDied", 2)
    assert (folder / "runs").read_text().split()[3:] == ["poison1", "poison1"]
    # One of the two processes said what the broker may do to it, and again only if it was the one that died
    eventually(lambda: 1 <= pool.output.count("Broker deletes work when it is full") <= 4, message=lambda: pool.output)
