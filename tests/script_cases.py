"""Cases of scripts: seed a state, apply one call, name every difference. What is not named has to stay as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from taskstream.broker.group import Batch, ConsumerGroup
from taskstream.link import Link

S, G, ME, DEAD = "jobs", "g", "me", "corpse"
AGAIN, LEASES, DELAYED = "ts:{jobs}:again:g", "ts:{jobs}:leases:g", "ts:{jobs}:delayed:g"
RANKED = "ts:{jobs}:ranked:g"
DEATHS, CONTROL, WATCHED = "ts:{jobs}:deaths:g", "ts:{jobs}:control:g", "ts:{jobs}:watched"
LEASE_MS = 30_000
MONTH = 30 * 24 * 3600


class World:
    """The key space of one server, to be seeded and looked at."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.call: Callable[..., Any] = Link(url).call
        self.call("FLUSHALL")
        self.me = ConsumerGroup(S, G, ME, LEASE_MS)

    def now_ms(self) -> int:
        seconds, micros = self.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def add(self, stream: str, entry: str, message: str) -> None:
        self.call("XADD", stream, entry, "id", message)

    def group(self, name: str, stream: str = S) -> None:
        self.call("XGROUP", "CREATE", stream, name, "0", "MKSTREAM")

    def read(self, consumer: str, stream: str, count: int, group: str = G) -> None:
        rows = self.call("XREADGROUP", "GROUP", group, consumer, "COUNT", count, "STREAMS", stream, ">")
        assert len(rows[0][1]) == count

    def lease(self, consumer: str, score: int) -> None:
        """``score`` in seconds from now, or as it is where it marks a lease that no longer holds."""
        self.call("ZADD", LEASES, score if abs(score) < 2 else self.now_ms() + score * 1000, consumer)

    def score(self, consumer: str) -> float:
        return float(self.call("ZSCORE", LEASES, consumer))

    def delay(self, member: str, seconds: int) -> None:
        self.call("ZADD", DELAYED, self.now_ms() + seconds * 1000, member)

    def keys(self) -> dict[str, Any]:
        """Everything there is, flat. Times are given from now to ten seconds, ids the server made as ``*``."""
        now = self.now_ms()
        found: dict[str, Any] = {}
        for key in sorted(self.call("KEYS", "*")):
            name = key.decode()
            kind = self.call("TYPE", key)
            if kind == b"stream":
                self._look_at_stream(name, found)
            elif kind == b"zset":
                flat = self.call("ZRANGE", key, 0, -1, "WITHSCORES")
                for member, score in zip(flat[::2], flat[1::2], strict=True):
                    found[f"{name} {_steady(member.decode(), now)}"] = clock(float(score), now)
            elif kind == b"hash":
                flat = self.call("HGETALL", key)
                found |= {
                    f"{name} {k.decode()}": _place(v.decode()) for k, v in zip(flat[::2], flat[1::2], strict=True)
                }
            elif kind == b"list":
                found[name] = [_steady(one.decode(), now) for one in self.call("LRANGE", key, 0, -1)]
            else:
                found[name] = self.call("GET", key).decode()
            ttl = self.call("TTL", key)
            if ttl >= 0:
                found[f"{name} ttl"] = round(ttl, -1)
        return found

    def _look_at_stream(self, name: str, found: dict[str, Any]) -> None:
        found[name] = [
            f"{_entry(entry)} {' '.join(part.decode() for part in fields)}"
            for entry, fields in self.call("XRANGE", name, "-", "+")
        ]
        for group in self.call("XINFO", "GROUPS", name):
            group_name = group[1].decode()
            found[f"{name} {group_name} read"] = _entry(group[7])
            for consumer in self.call("XINFO", "CONSUMERS", name, group_name):
                pending = self.call("XPENDING", name, group_name, "-", "+", 100, consumer[1])
                found[f"{name} {group_name}/{consumer[1].decode()}"] = [
                    f"{_entry(entry)} x{times}" for entry, _, _, times in pending
                ]


def _entry(raw: bytes) -> str:
    return raw.decode() if len(raw) < 13 else "*"


def _place(value: str) -> str:
    """What a slot says of where its message is."""
    return re.sub(r"^([12]) \d{13}-\d+$", r"\1 *", value)


def _steady(fields: str, now: int) -> str:
    """Fields in JSON; when they were sent, if that was just now, is the same in every run."""
    return re.sub(r'"sent","(\d{13})"', lambda found: f'"sent","{clock(float(found[1]), now)}"', fields)


def clock(score: float, now: int) -> int | str:
    return int(score) if abs(score) < 2 else f"{round((score - now) / 10_000) * 10:+d}s"


def seed(world: World) -> None:
    """Three messages, two of them and one more of the group's own stream held by me; the group is the only one."""
    for number in (1, 2, 3):
        world.add(S, f"1-{number}", f"m{number}")
    world.add(AGAIN, "2-1", "m4")
    world.group(G)
    world.group(G, AGAIN)
    world.lease(ME, 60)
    world.read(ME, S, 2)
    world.read(ME, AGAIN, 1)


def seed_with_other_group(world: World) -> None:
    seed(world)
    world.group("h")


def seed_corpse(score: int) -> Callable[[World], Any]:
    """Somebody holds m1, m2 and m4, whose lease is ``score``; I hold nothing yet."""

    def build(world: World) -> None:
        for number in (1, 2, 3):
            world.add(S, f"1-{number}", f"m{number}")
        world.add(AGAIN, "2-1", "m4")
        world.group(G)
        world.group(G, AGAIN)
        world.lease(DEAD, score)
        world.read(DEAD, S, 2)
        world.read(DEAD, AGAIN, 1)
        world.lease(ME, 60)
        for stream in (S, AGAIN):
            world.call("XGROUP", "CREATECONSUMER", stream, G, ME)

    return build


@dataclass
class Case:
    """``seeds`` make the state, ``act`` is the call, ``reply`` its answer, ``changes`` all differences (None: gone)."""

    name: str
    seeds: list[Callable[[World], Any]]
    act: Callable[[World], Any]
    reply: Any
    changes: dict[str, Any] = field(default_factory=dict)


def commit(*moves: tuple[Any, ...], ids: str = "") -> Callable[[World], tuple[bool, bool]]:
    """A commit of ``(method of Batch, arguments…)``."""

    def act(world: World) -> tuple[bool, bool]:
        batch = Batch()
        for method, *arguments in moves:
            getattr(batch, method)(*arguments)
        return world.me.commit(world.call, batch, ids)

    return act


def then(*calls: Callable[[World], Any]) -> Callable[[World], Any]:
    """Make calls part of the state."""

    def build(world: World) -> None:
        for call in calls:
            call(world)

    return build


def do(*command: Any) -> Callable[[World], Any]:
    """One plain command."""
    return lambda world: world.call(*command)


def lease(score: int) -> Callable[[World], Any]:
    """My own lease; see World.lease."""
    return lambda world: world.lease(ME, score)


DIED_BEFORE = do("HSET", DEATHS, "m1", 2, "m9", 1)
"""Processes died of m1 and of a message that is not here."""


def cases(*found: Case) -> pytest.MarkDecorator:
    """Run a test once for each."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in found])


def check(case: Case, world: World) -> None:
    """Fail unless the case's call answers, and changes, exactly what it says."""
    for build in case.seeds:
        build(world)
    before = world.keys()
    reply = case.act(world)
    after = world.keys()
    assert reply == case.reply
    names = before.keys() | after.keys()
    assert {name: after.get(name) for name in names if before.get(name) != after.get(name)} == case.changes
