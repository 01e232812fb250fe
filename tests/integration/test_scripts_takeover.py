"""The scripts around the death of a consumer: sweep, claim, release."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from msgspec.structs import replace
from script_cases import (
    AGAIN,
    DEAD,
    DEATHS,
    DELAYED,
    DIED_BEFORE,
    LEASE_MS,
    LEASES,
    ME,
    MONTH,
    Case,
    G,
    S,
    World,
    cases,
    check,
    clock,
    commit,
    do,
    lease,
    seed,
    seed_corpse,
    then,
)

from taskstream.broker.group import Claimed, ConsumerGroup, Entry


def claim(count: int = 10, observed: float | None = None, suspect_at: int = 3) -> Callable[[World], Claimed]:
    def act(world: World) -> Claimed:
        raw = world.call("ZSCORE", LEASES, DEAD)
        seen = observed if observed is not None else float(raw or 0)
        return world.me.claim(world.call, DEAD, seen, count, suspect_at)

    return act


M1 = Entry(False, "1-1", [b"id", b"m1"], 2, 1)
M2 = Entry(False, "1-2", [b"id", b"m2"], 2, 1)
M4 = Entry(True, "2-1", [b"id", b"m4"], 2, 1)


def innocent(entry: Entry, deaths: int = 0) -> Entry:
    return replace(entry, deaths=deaths)


TAKEN_ALL = {
    f"{S} g/me": ["1-1 x2", "1-2 x2"],
    f"{AGAIN} g/me": ["2-1 x2"],
    f"{S} g/corpse": None,
    f"{AGAIN} g/corpse": None,
    f"{LEASES} corpse": None,
}
COUNTED = {f"{DEATHS} m1": "1", f"{DEATHS} m2": "1", f"{DEATHS} m4": "1", f"{DEATHS} ttl": MONTH}
NOTHING = Claimed(False, True, [])
CLAIM = [
    Case("a lease that ran out", [seed_corpse(-60)], claim(), Claimed(False, True, [M1, M2, M4]), TAKEN_ALL | COUNTED),
    Case(
        "a lease that was given up: its supervisor counted",
        [seed_corpse(1), do("HSET", DEATHS, "m2", 2)],
        claim(),
        Claimed(False, True, [innocent(M1), innocent(M2, 2), innocent(M4)]),
        TAKEN_ALL,
    ),
    Case(
        "deaths that are no numbers count from none",
        [seed_corpse(-60), do("HSET", DEATHS, "m2", "text")],
        claim(),
        Claimed(False, True, [M1, M2, M4]),
        TAKEN_ALL | COUNTED,
    ),
    Case(
        "the rest of a lease that ran out",
        [seed_corpse(0)],
        claim(),
        Claimed(False, True, [M1, M2, M4]),
        TAKEN_ALL | COUNTED,
    ),
    Case(
        "the rest of a lease that was given up",
        [seed_corpse(-1)],
        claim(),
        Claimed(False, True, [innocent(M1), innocent(M2), innocent(M4)]),
        TAKEN_ALL,
    ),
    Case(
        "a piece marks the lease as taken",
        [seed_corpse(-60)],
        claim(1),
        Claimed(False, False, [M1]),
        {
            f"{S} g/me": ["1-1 x2"],
            f"{S} g/corpse": ["1-2 x1"],
            f"{LEASES} corpse": 0,
            f"{DEATHS} m1": "1",
            f"{DEATHS} ttl": MONTH,
        },
    ),
    Case(
        "a piece of a given-up one keeps that mark",
        [seed_corpse(1)],
        claim(1),
        Claimed(False, False, [innocent(M1)]),
        {f"{S} g/me": ["1-1 x2"], f"{S} g/corpse": ["1-2 x1"], f"{LEASES} corpse": -1},
    ),
    Case(
        "a piece that ends within the own stream",
        [seed_corpse(1)],
        claim(3),
        Claimed(False, False, [innocent(M1), innocent(M2), innocent(M4)]),
        {
            f"{S} g/me": ["1-1 x2", "1-2 x2"],
            f"{S} g/corpse": [],
            f"{AGAIN} g/me": ["2-1 x2"],
            f"{AGAIN} g/corpse": [],
            f"{LEASES} corpse": -1,
        },
    ),
    Case(
        "the last piece, with nothing left in it",
        [seed_corpse(1), then(claim(3))],
        claim(3),
        Claimed(False, True, []),
        {f"{S} g/corpse": None, f"{AGAIN} g/corpse": None, f"{LEASES} corpse": None},
    ),
    *(
        Case(
            f"a suspect ends the piece, {word}",
            [seed_corpse(score), do("HSET", DEATHS, "m2", before)],
            claim(suspect_at=2),
            Claimed(False, False, [innocent(M1, deaths), innocent(M2, 2)]),
            {f"{S} g/me": ["1-1 x2", "1-2 x2"], f"{S} g/corpse": [], f"{LEASES} corpse": mark} | counted,
        )
        for word, score, before, deaths, mark, counted in (
            ("known", 1, 2, 0, -1, {}),
            ("by this very death", -60, 1, 1, 0, {f"{DEATHS} m1": "1", f"{DEATHS} m2": "2", f"{DEATHS} ttl": MONTH}),
        )
    ),
    *(
        Case(
            f"whose run was ended on purpose says why and counts no death, {word}",
            [seed_corpse(score), do("HSET", DEATHS, "m2", 2, "m2 why", "too long")],
            claim(suspect_at=2),
            Claimed(False, True, [innocent(M1, n), replace(M2, deaths=2, why="too long"), innocent(M4, n)]),
            TAKEN_ALL | counted,
        )
        for word, score, n, counted in (
            ("given up", 1, 0, {}),
            ("ran out", -60, 1, {f"{DEATHS} m1": "1", f"{DEATHS} m4": "1", f"{DEATHS} ttl": MONTH}),
        )
    ),
    Case("a live lease", [seed_corpse(60)], claim(), NOTHING),
    Case("a lease renewed and run out since it was observed", [seed_corpse(-60)], claim(observed=5.0), NOTHING),
    Case("a lease that is gone", [seed_corpse(-60), do("ZREM", LEASES, DEAD)], claim(), NOTHING),
    *(
        Case(f"my own lease {word}", [seed_corpse(-60), mark], claim(), Claimed(True, False, []))
        for word, mark in (
            ("missing", do("ZREM", LEASES, ME)),
            ("ran out", lambda w: w.lease(ME, -60)),
            ("taken", lambda w: w.lease(ME, 0)),
            ("given up", lambda w: w.lease(ME, 1)),
        )
    ),
    Case(
        "an entry deleted from the stream is not handed out and not pending any more",
        [seed_corpse(1), do("XDEL", S, "1-1")],
        claim(),
        Claimed(False, True, [innocent(M2), innocent(M4)]),
        TAKEN_ALL | {f"{S} g/me": ["1-2 x2"]},
    ),
    Case(
        "an entry without an id counts no death",
        [seed_corpse(-60), do("XADD", AGAIN, "2-2", "foreign", "x"), lambda w: w.read(DEAD, AGAIN, 1)],
        claim(),
        Claimed(False, True, [M1, M2, M4, Entry(True, "2-2", [b"foreign", b"x"], 2, 0)]),
        TAKEN_ALL | COUNTED | {f"{AGAIN} g/me": ["2-1 x2", "2-2 x2"]},
    ),
    Case(
        "a corpse that held nothing",
        [
            lambda w: w.me.register(w.call),
            lambda w: ConsumerGroup(S, G, DEAD, LEASE_MS).register(w.call),
            lambda w: w.lease(DEAD, -60),
        ],
        claim(),
        Claimed(False, True, []),
        {f"{S} g/corpse": None, f"{AGAIN} g/corpse": None, f"{LEASES} corpse": None},
    ),
]


def swept(world: World) -> list[tuple[str, int | str]]:
    now = world.now_ms()
    return [(consumer, clock(score, now)) for consumer, score in world.me.sweep(world.call)]


SWEEP = [
    Case("no stream", [], swept, []),
    Case("all have leases", [seed_corpse(-60)], swept, [("corpse", "-60s"), ("me", "+60s")]),
    Case(
        "a consumer whose lease was lost gets one of grace",
        [seed_corpse(-60), do("DEL", LEASES)],
        swept,
        [("corpse", "+30s"), ("me", "+30s")],
        {f"{LEASES} corpse": "+30s", f"{LEASES} me": "+30s"},
    ),
    Case(
        "a lease from before the clock was set back",
        [seed_corpse(9000), lambda w: w.lease("foreign", 999_990)],
        swept,
        [("me", "+60s"), ("corpse", "+3600s"), ("foreign", "+3600s")],
        {f"{LEASES} corpse": "+3600s", f"{LEASES} foreign": "+3600s"},
    ),
    Case(
        "a consumer that came back to the own stream only",
        [seed, do("XGROUP", "CREATECONSUMER", AGAIN, G, "zombie")],
        swept,
        [("zombie", "+30s"), ("me", "+60s")],
        {f"{LEASES} zombie": "+30s"},
    ),
    Case(
        "taken and given up first",
        [seed_corpse(-60), lambda w: w.lease("x", 1), lambda w: w.lease("y", 0), lambda w: w.lease("z", -1)],
        swept,
        [("z", -1), ("y", 0), ("x", 1), ("corpse", "-60s"), ("me", "+60s")],
    ),
    Case(
        "another group's consumers are not ours",
        [seed, lambda w: w.group("h"), lambda w: w.read("other", S, 1, "h")],
        swept,
        [("me", "+60s")],
    ),
]


def of_grace(world: World) -> None:
    """My lease was lost, and a sweep has found me without one."""
    world.call("ZREM", LEASES, ME)
    world.me.sweep(world.call)


GRACE = [
    Case("is not renewed", [seed, of_grace], lambda w: w.me.renew(w.call).held, False),
    Case("lets nothing be committed", [seed, of_grace], commit(("ack", False, "1-1")), (False, False)),
    Case("is not given up", [seed, of_grace], lambda w: w.me.release(w.call, {"m1": ""}), None),
    Case("lets nothing be claimed", [seed_corpse(-60), of_grace], claim(), Claimed(True, False, [])),
    Case(
        "runs out",
        [seed_corpse(-60), lambda w: w.call("ZADD", LEASES, w.now_ms() - 60_000.5, DEAD)],
        claim(),
        Claimed(False, True, [M1, M2, M4]),
        TAKEN_ALL | COUNTED,
    ),
]

RELEASE = [
    Case("holding something: given up", [seed], lambda w: w.me.release(w.call), None, {f"{LEASES} me": 1}),
    Case(
        "holding something of the own stream only",
        [seed, then(commit(("ack", False, "1-1"), ("ack", False, "1-2")))],
        lambda w: w.me.release(w.call),
        None,
        {f"{LEASES} me": 1},
    ),
    Case(
        "what had started died",
        [seed, DIED_BEFORE],
        lambda w: w.me.release(w.call, {"m1": "", "m4": ""}),
        None,
        {f"{LEASES} me": 1, f"{DEATHS} m1": "3", f"{DEATHS} m4": "1", f"{DEATHS} ttl": MONTH},
    ),
    Case(
        "one ran too long",
        [seed, DIED_BEFORE],
        lambda w: w.me.release(w.call, {"m1": "too long"}),
        None,
        {f"{LEASES} me": 1, f"{DEATHS} m1 why": "too long", f"{DEATHS} ttl": MONTH},
    ),
    Case(
        "holding nothing: removed",
        [seed_corpse(-60)],
        lambda w: w.me.release(w.call),
        None,
        {f"{LEASES} me": None, f"{S} g/me": None, f"{AGAIN} g/me": None},
    ),
    Case(
        "an expired lease",
        [seed, lambda w: w.lease(ME, -60)],
        lambda w: w.me.release(w.call),
        None,
        {f"{LEASES} me": 1},
    ),
    *(
        Case(
            f"a lease marked {score}: nothing is counted twice",
            [seed, lease(score)],
            lambda w: w.me.release(w.call, {"m1": ""}),
            None,
        )
        for score in (1, 0, -1)
    ),
    Case("a lease that is gone", [seed, do("ZREM", LEASES, ME)], lambda w: w.me.release(w.call, {"m1": ""}), None),
]


@cases(*CLAIM)
def test_claim(case: Case, world: World) -> None:
    check(case, world)


@cases(*SWEEP)
def test_sweep(case: Case, world: World) -> None:
    check(case, world)


@cases(*GRACE)
def test_a_lease_of_grace(case: Case, world: World) -> None:
    check(case, world)


@cases(*RELEASE)
def test_release(case: Case, world: World) -> None:
    check(case, world)


@pytest.mark.parametrize("key", [AGAIN, DELAYED, DEATHS, "ts:{jobs}:dead:g", "ts:{jobs}:letters:g"])
def test_a_commit_into_a_broken_key_does_nothing(key: str, world: World) -> None:
    seed(world)
    if key == AGAIN:
        world.call("DEL", AGAIN)
    world.call("SET", key, "text")
    before = world.keys()
    for move in (
        ("retry", False, "1-1", "m1", 1000, '["id","m1"]'),
        ("give_back", False, "1-1", "m1", '["id","m1"]'),
        ("bury", False, "1-1", "m1", "{}"),
    ):
        refusal = ""
        try:
            commit(move)(world)
        except redis.ResponseError as error:
            refusal = str(error)
        assert refusal.startswith("WRONGTYPE")
        assert world.keys() == before
    world.call.__self__.close()  # type: ignore[attr-defined]  # the errors keep it in a circle, open until collected
