"""One chaos run from start to verdict."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from box import START_S, patience
from helpers import eventually

from taskstream import keys
from taskstream.results import FINAL_STATES, Outcome, open_store

from . import audit, measures
from .driver import Driver
from .memory import LONG_S, judge_memory
from .pool import CONCURRENCY
from .system import GROUP, QUEUES, Load, System
from .verdict import BACK_S, TAKEOVER_S, Verdict


def run(folder: Path, load: Load, say: Callable[[str], None]) -> Verdict:
    """Shake a system in ``folder``, let it come to rest, account for everything."""
    say(f"chaos: seed {load.seed}, {load.seconds:g} s, lease {load.lease_s:g} s, in {folder}")
    begun = time.monotonic()
    system = System(folder, load)
    try:
        eventually(lambda: system.records.run_count() > 20, patience(START_S), lambda: _why_idle(system))
        driver = Driver(system, random.Random(load.seed), say)
        driver.run(load.seconds)
        system.stop_producers()
        say("disturbances are over, waiting for rest")
        system.settle()
        took_s = time.monotonic() - begun
        say("at rest, accounting for every call")
        return _judge(system, driver, took_s)
    finally:
        system.remove()


def _why_idle(system: System) -> str:
    """What pools and producers have printed, where nothing runs."""
    return "\n".join(run.output[-2000:] for run in (*system.producers, *(pool.supervisor for pool in system.pools)))


def _judge(system: System, driver: Driver, took_s: float) -> Verdict:
    records, load = system.records, system.load
    runs, woken = audit.without_woken(records.runs(), records, load.lease_s)
    letters, problems = _letters(system)
    store = open_store(system.results_url, base=system.folder)
    assert store is not None

    def outcomes_of(message_id: str) -> Sequence[Outcome]:
        return [one for one in store.read(message_id) if one.state in FINAL_STATES]

    ends = audit.Ends(runs, outcomes_of, letters, time.time() - time.monotonic(), woken)
    for call in records.calls():
        ends.take(call)
    store.close()
    repeats = audit.Repeats(records, load.lease_s)
    for number in ends.poison:
        # Those that began at waking too: they have killed their processes as well.
        repeats.poisoned([*runs.get(number, ()), *(run for run in woken if run.number == number)])
    repeats.judge(runs, CONCURRENCY)
    if woken:
        repeats.reasons["begun at waking"] = len(woken)
    problems = [*ends.problems, *ends.strangers(), *repeats.problems, *problems]
    problems += [f"left in Redis: {key}" for key in system.left_in_redis()]
    memory, grown = judge_memory(system, load.seconds, len(letters))
    takeovers = measures.takeovers(records, runs)
    counted = [one.seconds for one in takeovers if not one.excluded]
    takeover = measures.summary(counted, len(takeovers) - len(counted))
    back = measures.summary(measures.back_to_work(records, runs))
    # In a short run a few messages that are run alone, because processes died under them, keep many others waiting.
    slow_s = takeover.p99 if load.seconds >= LONG_S else takeover.p50 / 2
    if slow_s > patience(TAKEOVER_S) / 2:
        problems.append(f"takeover took too long: {takeover}")
    if back.p50 > patience(BACK_S) / 2:
        problems.append(f"work went on too late after the broker was back: {back}")
    return Verdict(
        seed=load.seed,
        seconds=load.seconds,
        took_s=round(took_s, 1),
        calls=dict(ends.verdicts),
        kinds=dict(ends.kinds),
        done=ends.done,
        dead=dict(ends.dead),
        condemned=ends.condemned,
        runs=sum(map(len, runs.values())) + len(woken),
        repeats=dict(repeats.reasons),
        after_sigterm=repeats.after_stop,
        finished_and_repeated=max(repeats.finished.values(), default=0),
        kills=len(records.killed),
        takeover=takeover,
        back=back,
        disturbances=dict(driver.count),
        memory=memory,
        skipped=[f"full disk: {system.disk.why_not}"] if system.disk.why_not else [],
        slow_takeovers=sorted(takeovers, key=lambda one: -one.seconds)[:50],
        problems=problems + grown,
    )


def _letters(system: System) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Dead letters by message id, and what is wrong with how they are kept."""
    found: dict[str, dict[str, Any]] = {}
    problems = []
    with redis.Redis.from_url(system.server.url) as client:
        for queue in QUEUES:
            raw = client.hgetall(keys.letters(queue, GROUP))
            letters = {key.decode(): json.loads(text) for key, text in raw.items()}
            listed = {item.decode() for item in client.zrange(keys.dead(queue, GROUP), 0, -1)}
            problems += [f"dead letter {one} is listed or kept, not both" for one in listed ^ letters.keys()]
            found.update(letters)
    return found, problems
