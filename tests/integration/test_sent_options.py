"""What is said about a single call holds in a real pool whose host has a wrong clock: countdown, eta, expires, unique.

One pool for all of it, which the cases leave as they found it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from calls import Note, notes, write_app
from helpers import Started, eventually, taskstream_command

from taskstream import TaskRevoked, keys
from taskstream.broker import Broker
from taskstream.broker.letters import Filter, Letters
from taskstream.handler import QUEUE_GROUP

QUEUE = "calls"
SKEW_S = 3600


class Pool:
    """The app, sending from here, and a pool of one process with two slots in ``folder``."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.app = write_app(folder)
        self.app.app.override(broker_url=url)
        self.broker = Broker(url)

    def started(self, key: str, name: str) -> bool:
        return Note("start", key, name) in notes(self.folder)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.broker.now_ms() / 1000, UTC)


@pytest.fixture(scope="module")
def pool(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("calls")
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
    made = Pool(folder, valkey_url)
    options = ("--broker", valkey_url, "--processes", "1", "--concurrency", "2")
    started = Started(
        taskstream_command("worker", "-A", "calls_app:app", *options),
        cwd=folder,
        env={**os.environ, "CALLS_SKEW": str(SKEW_S), "PYTHONWARNINGS": "error"},
        output=folder / "pool.log",
    )
    try:
        # As soon as it reads, there is a group, too.
        eventually(lambda: [one["state"] for one in made.broker.workers()] == ["running"], 20, lambda: started.output)
        yield made
    finally:
        started.remove()
        made.app.app.close()
        made.broker.close()


def test_a_countdown_goes_by_redis_clock(pool: Pool) -> None:
    # Given a pool whose clock is an hour ahead
    before = pool.now()
    # When a call is to wait
    handle = pool.app.turn.apply_async(("countdown", "a"), countdown=1.5)
    assert pool.broker.group_states(QUEUE)[0].delayed == 1
    # Then it is run after that time by Redis' clock, and not much later
    eventually(lambda: pool.started("countdown", "a"))
    assert timedelta(seconds=1.5) <= pool.now() - before < timedelta(seconds=6)
    assert handle.get(timeout=10) == "a"


def test_an_eta_goes_by_redis_clock(pool: Pool) -> None:
    # Given one that is due in a while, one that is due by the pool's clock only, and one that was due long ago
    eta = pool.now() + timedelta(seconds=1)
    soon = pool.app.turn.apply_async(("eta", "soon"), eta=eta)
    late = pool.app.turn.apply_async(("eta", "late"), eta=eta + timedelta(seconds=SKEW_S / 2), task_id="late-one")
    past = pool.app.turn.apply_async(("eta", "past"), eta=datetime(2001, 1, 1, tzinfo=UTC))
    # Then they are run so
    assert past.get(timeout=5) == "past" and soon.get(timeout=10) == "soon" and pool.now() >= eta
    assert not pool.started("eta", "late") and late.id == "late-one"
    pool.broker.client.delete(keys.delayed(QUEUE, QUEUE_GROUP))


def test_a_delayed_call_is_sent_once(pool: Pool) -> None:
    first = pool.app.turn.apply_async(("once", "a"), countdown=0.5, idempotency_key="once")
    second = pool.app.turn.apply_async(("once", "b"), countdown=0.5, idempotency_key="once")
    assert first.id == second.id and second.get(timeout=10) == "a"
    assert pool.app.turn.apply_async(("once", "c"), idempotency_key="once").id == first.id


def test_many_calls_with_different_options_leave_in_one_go(pool: Pool) -> None:
    turn = pool.app.turn
    handles = pool.app.app.enqueue_many(
        [
            turn.s("many", "c", 0.05).set(countdown=0.4),
            turn.s("many", "a").set(ordering_key="many"),
            turn.s("many", "b").set(ordering_key="many", expires=60),
            turn.s("many", "d").set(expires=0),
            pool.app.unique.s("many"),
            pool.app.unique.s("many"),
        ]
    )
    assert len({handle.id for handle in handles}) == 5 and handles[4] == handles[5]
    assert [handle.get(timeout=10) for handle in handles[:3]] == ["c", "a", "b"]
    with pytest.raises(TaskRevoked):
        handles[3].get(timeout=10)
    assert [one.name for one in notes(pool.folder, "many") if one.what == "end"] == ["a", "b", "c"]


def test_what_could_not_start_in_time_ends_as_revoked(pool: Pool) -> None:
    # Given both slots are taken, and calls behind that are not to wait for long, or for as long as it takes
    running = [pool.app.turn.delay("expires", name, 20.0) for name in ("x", "y")]
    eventually(lambda: pool.started("expires", "x") and pool.started("expires", "y"))
    late = pool.app.turn.apply_async(("expires", "late"), expires=0.3)
    until = pool.app.turn.apply_async(("expires", "until"), expires=pool.now() + timedelta(seconds=0.3))
    good = pool.app.turn.apply_async(("expires", "good"), expires=SKEW_S / 2)
    unique = pool.app.unique.apply_async(("expires",), expires=0.3)
    dead = pool.broker.group_states(QUEUE)[0].dead
    # When their time is over before there is a slot
    end = pool.now() + timedelta(seconds=0.4)
    eventually(lambda: pool.now() > end)
    for name in ("x", "y"):
        (pool.folder / f"go-{name}").touch()
    # Then they are not run, and are no dead letters
    for handle in (late, until, unique):
        with pytest.raises(TaskRevoked, match=r"^Expired: it was not to be started after 20\d\d-.*\+00:00$"):
            handle.get(timeout=10)
        assert handle.state == "REVOKED"
    assert good.get(timeout=10) == "good" and [one.get(timeout=10) for one in running] == ["x", "y"]
    assert not pool.started("expires", "late") and not pool.started("expires", "until")
    assert pool.broker.group_states(QUEUE)[0].dead == dead
    # And the call of the unique one may be sent again
    again = pool.app.unique.delay("expires")
    assert again.id != unique.id and again.get(timeout=10) == "expires"


def test_what_was_read_in_time_and_could_not_start_expires_too(pool: Pool) -> None:
    # Given two messages that are read together, of which the first lets nothing else run in its process; sent by one
    # script, because they have ids, so that no reader sees one without the other
    late = pool.app.turn.s("hogged", "late").set(expires=0.7, task_id="hogged")
    hog, late = pool.app.app.enqueue_many([pool.app.hog.s("h", 1.5).set(task_id="hog"), late])
    # Then the other one does not start
    with pytest.raises(TaskRevoked):
        late.get(timeout=15)
    assert hog.get(timeout=10) is None and not pool.started("hogged", "late")


def test_a_unique_call_waits_or_runs_once(pool: Pool) -> None:
    unique = pool.app.unique
    # Given one that runs, and another that waits for its time
    running = unique.delay("r", 20.0)
    waiting = unique.apply_async(("w",), countdown=1)
    eventually(lambda: pool.started("unique", "r"))
    # Then the same calls are the same messages, and others are not
    assert unique.delay("r", 20.0) == running == unique.apply_async((), {"name": "r", "seconds": 20.0})
    assert unique.delay("w") == waiting and unique.delay("v").id not in (running.id, waiting.id)
    # And when one is done, it may be sent again
    (pool.folder / "go-r").touch()
    assert running.get(timeout=10) == "r" and waiting.get(timeout=10) == "w"
    eventually(lambda: not pool.broker.client.exists(lock_of(pool, "r", 20.0)))
    again = unique.delay("r", 20.0)
    assert again != running and again.get(timeout=10) == "r"


def lock_of(pool: Pool, *args: Any) -> str:
    return keys.published(QUEUE, keys.unique_call(pool.app.unique.call_digest(args, {})))


def test_a_unique_call_is_locked_while_it_is_tried_again_and_not_when_it_is_dead(pool: Pool) -> None:
    unique = pool.app.unique
    # Given one that fails at first
    retried = unique.delay("f", 0.0, True)
    eventually(lambda: Note("failed", "unique", "f") in notes(pool.folder) and retried.state == "RETRY")
    assert unique.delay("f", 0.0, True) == retried and retried.get(timeout=10) == "f"
    # And one that fails for good
    dead = unique.delay("d", dies=True)
    eventually(lambda: dead.state == "FAILURE")
    eventually(lambda: not pool.broker.client.exists(lock_of(pool, "d", 0.0, False, True)))
    # When the same call waits again, then a requeue is told so, and done when it has ended
    waits = unique.apply_async(("d",), {"dies": True}, countdown=60)
    letters = Letters(pool.broker, QUEUE, QUEUE_GROUP)
    found = [one for page in letters.find(Filter()) for one in page.letters if one.id == dead.id]
    assert waits != dead and [one.done for one in letters.requeue(found)] == [False]
    pool.broker.client.delete(keys.delayed(QUEUE, QUEUE_GROUP), lock_of(pool, "d", 0.0, False, True))
    assert [one.done for one in letters.requeue(found)] == [True]
    assert unique.delay("d", dies=True) == dead
    eventually(lambda: letters.count() == 1)
    letters.purge([one for page in letters.find(Filter()) for one in page.letters])
