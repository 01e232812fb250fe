"""One chaos run from start to verdict."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import redis
from box import START_S, patience
from helpers import eventually

from taskstream import keys
from taskstream.results import FINAL_STATES, open_store

from . import audit
from .driver import Driver
from .system import GROUP, LEASE_S, QUEUE, System


@dataclass
class Verdict:
    """What came of it; ``problems`` is empty if all is well."""

    accepted: int
    runs: int
    dead: dict[str, int]
    disturbances: int
    problems: list[str]

    def __str__(self) -> str:
        head = (
            f"{self.accepted} calls accepted, {self.runs} runs, dead letters {self.dead}, "
            f"{self.disturbances} disturbances: {len(self.problems)} problems"
        )
        return "\n".join((head, *self.problems[:20]))


def run(folder: Path, seconds: float, seed: int, say: Callable[[str], None]) -> Verdict:
    """Shake a system in ``folder`` for ``seconds``, let it come to rest, account for everything."""
    say(f"chaos: seed {seed}, {seconds:g} s, in {folder}")
    system = System(folder, seed)
    try:
        eventually(lambda: len(system.records.runs()) > 20, START_S, lambda: system.pools[0].supervisor.output)
        driver = Driver(system, random.Random(seed), say)
        driver.run(seconds)
        system.stop_producers()
        say("disturbances are over, waiting for rest")
        system.settle(patience(30.0) + seconds / 2)
        return _judge(system, driver.count)
    finally:
        system.remove()


def _judge(system: System, disturbances: int) -> Verdict:
    records = system.records
    calls, runs = records.calls(), records.runs()
    accepted = [call for call in calls if call.verdict == "accepted"]
    store = open_store("file://results", base=system.folder)
    assert store is not None
    outcomes = {
        call.message_id: [one for one in store.read(call.message_id) if one.state in FINAL_STATES] for call in accepted
    }
    store.close()
    with redis.Redis.from_url(system.server.url) as client:
        raw = client.hgetall(keys.letters(QUEUE, GROUP))
        listed = {item.decode() for item in client.zrange(keys.dead(QUEUE, GROUP), 0, -1)}
    letters = {key.decode(): json.loads(text) for key, text in raw.items()}
    problems = audit.ends(calls, runs, outcomes, letters)
    problems += audit.repeats(records, runs, {call.number: call.kind for call in calls}, LEASE_S)
    problems += [f"dead letter {one} is listed or kept, not both" for one in listed ^ letters.keys()]
    problems += [f"left in Redis: {key}" for key in system.left_in_redis()]
    dead = Counter(str(letter["error"]["type"]) for letter in letters.values())
    return Verdict(len(accepted), sum(map(len, runs.values())), dict(dead), disturbances, problems)
